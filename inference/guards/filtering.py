"""One request and its answer through redaction and guards: what the gateway calls. Pure.

One ``RequestFilter`` per request. It keeps the originals that are put back into this request's answer, and counts
what was done for the ledger; it never keeps or logs a text.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from core.security.redaction import Restorer, StreamRedactor, Vault
from core.security.redaction.entities import ENTITIES
from inference.guards.guardset import GuardSet
from inference.guards.texts import rewrite_request, rewrite_response, untrusted_texts
from inference.guards.verdicts import ALLOW, GuardVerdict, worst


class _Stop(Exception):
    """A text was refused; nothing more of it is looked at."""


@dataclass(frozen=True, slots=True)
class FilteredRequest:
    """``body``: what may go to the engine. ``blocked``: the entity or guard that refuses it, None when it may go."""

    body: dict[str, Any]
    counts: dict[str, int]
    blocked: str | None
    guard_verdict: GuardVerdict = ALLOW

    @property
    def reason(self) -> str:
        """Why it was refused, in the caller's terms; empty when it was not."""
        return block_reason(self.blocked, self.guard_verdict, "request") if self.blocked else ""


def block_reason(blocked: str, verdict: GuardVerdict, what: str) -> str:
    """A sentence for the caller."""
    if verdict.action == "block":
        return verdict.reason
    entity = ENTITIES.get(blocked)
    title = entity.title.lower() if entity else blocked
    return f"The {what} holds something that may not pass here: {title}. Remove it and try again."


@dataclass(slots=True)
class _Tally:
    input: dict[str, int] = field(default_factory=dict)
    output: dict[str, int] = field(default_factory=dict)
    verdicts: list[GuardVerdict] = field(default_factory=list)
    blocked: str | None = None
    blocked_direction: str = ""


class RequestFilter:
    """Redaction and guards of one request. Not shared between threads."""

    def __init__(self, guards: GuardSet) -> None:
        self._guards = guards
        self._vault = Vault()
        self._tally = _Tally()

    # ---------------------------------------------------------------- before
    def filter_request(self, body: Mapping[str, Any]) -> FilteredRequest:
        """Redact every text of a request and ask the input guards. The given body is not changed."""
        guards, tally = self._guards, self._tally
        if not guards.acts_on_input:
            return FilteredRequest(dict(body), {}, None)
        redactor, deny = guards.redactor_in, guards.deny_in
        vault = self._vault

        def one(text: str, is_json: bool, key: str) -> str:
            if deny is not None:
                self._deny(deny.redact(text).counts, "input")
            result = redactor.redact(text, vault, json_text=is_json and text.lstrip()[:1] in ("{", "["))
            if result.counts:
                _add(tally.input, result.counts)
            if result.blocked is not None:
                self._block(result.blocked, "input")
                raise _Stop
            return result.text

        try:
            made = rewrite_request(body, one)
            if guards.judges_input:
                texts = list(untrusted_texts(body))
                for verdict in guards.judge_input(texts):
                    tally.verdicts.append(verdict)
                    if verdict.action == "block":
                        self._block(verdict.guard, "input")
                        raise _Stop
        except _Stop:
            return FilteredRequest({}, dict(tally.input), tally.blocked, self._verdict("input"))
        return FilteredRequest(made, dict(tally.input), None, self._verdict("input"))

    # ---------------------------------------------------------------- after
    def filter_response(self, body: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, int], str | None]:
        """(body, counts, blocked): every text of an answer redacted and checked, originals put back.

        A blocked answer keeps its shape, with empty texts and ``finish_reason`` "content_filter".
        """
        guards, tally = self._guards, self._tally
        if not guards.acts_on_output and not len(self._vault):
            return dict(body), {}, None
        redactor, deny = guards.redactor_out, guards.deny_out

        def one(text: str, is_json: bool, key: str) -> str:
            if deny is not None:
                self._deny(deny.redact(text).counts, "output")
            result = redactor.redact(text, None, json_text=is_json)
            if result.counts:
                _add(tally.output, result.counts)
            if result.blocked is not None:
                self._block(result.blocked, "output")
                raise _Stop
            return self._vault.restore(result.text, json_text=is_json)

        try:
            return rewrite_response(body, one), dict(tally.output), None
        except _Stop:
            return _emptied(body), dict(tally.output), tally.blocked

    def stream(self) -> StreamFilter:
        """The same for an answer that arrives in chunks."""
        return StreamFilter(self)

    # ---------------------------------------------------------------- what happened
    def summary(self) -> dict[str, Any]:
        """For the ledger: profile, counts by entity and direction, verdicts, what was blocked. No text."""
        tally = self._tally
        return {
            "profile": self._guards.name,
            "digest": self._guards.digest,
            "input": dict(tally.input),
            "output": dict(tally.output),
            "verdicts": [verdict.as_dict() for verdict in tally.verdicts],
            "blocked": tally.blocked,
            "blocked_direction": tally.blocked_direction,
        }

    @property
    def clean(self) -> bool:
        """Whether the guards had nothing to say, so that the answer may be kept in a cache."""
        return not self._tally.verdicts and self._tally.blocked is None

    @property
    def restores(self) -> bool:
        """Whether originals of this request go into its answer, which is then nobody else's."""
        return len(self._vault) > 0

    @property
    def blocked_reason(self) -> str:
        """Why something was refused, in the caller's terms; empty when nothing was."""
        tally = self._tally
        if tally.blocked is None:
            return ""
        what = "request" if tally.blocked_direction == "input" else "answer"
        return block_reason(tally.blocked, self._verdict(tally.blocked_direction), what)

    def _verdict(self, direction: str) -> GuardVerdict:
        return worst(one for one in self._tally.verdicts if one.direction == direction)

    def _block(self, what: str, direction: str) -> None:
        if self._tally.blocked is None:
            self._tally.blocked = what
            self._tally.blocked_direction = direction

    def _deny(self, counts: Mapping[str, int], direction: str) -> None:
        for rule in counts:
            verdict = self._guards.deny_verdict(rule, direction)
            if all(one.guard != verdict.guard or one.direction != direction for one in self._tally.verdicts):
                self._tally.verdicts.append(verdict)
            if verdict.action == "block":
                self._block(verdict.guard, direction)
                raise _Stop


def _add(into: dict[str, int], counts: Mapping[str, int]) -> None:
    for name, number in counts.items():
        into[name] = into.get(name, 0) + number


def _emptied(body: Mapping[str, Any]) -> dict[str, Any]:
    made = dict(body)
    if isinstance(body.get("choices"), list):
        made["choices"] = []
        for choice in body["choices"]:
            bare: dict[str, Any] = {"index": choice.get("index", 0) if isinstance(choice, dict) else 0}
            if isinstance(choice, dict) and "message" in choice:
                bare["message"] = {"role": "assistant", "content": "", "refusal": None}
            else:
                bare["text"] = ""
            made["choices"].append({**bare, "logprobs": None, "finish_reason": "content_filter"})
    if "output" in made:
        made["output"] = []
    return made


# ---------------------------------------------------------------- streams
class _Channel:
    """One text of the stream: deny lists, redaction, restoring, in this order."""

    __slots__ = ("_deny", "_noted", "_redactor", "_restorer", "counts", "taken")

    def __init__(self, owner: RequestFilter, json_text: bool) -> None:
        guards = owner._guards
        self._deny: StreamRedactor | None = guards.deny_out.stream() if guards.deny_out is not None else None
        self._redactor: StreamRedactor = guards.redactor_out.stream(None, json_text=json_text)
        self._restorer: Restorer = owner._vault.restorer(json_text=json_text)
        self.counts = self._redactor.counts
        self.taken = 0

    def push(self, owner: RequestFilter, text: str) -> str:
        self.taken += len(text)
        if self._deny is not None:
            text = self._deny.push(text)
            owner._deny(self._deny.counts, "output")
        return self._redact(owner, self._redactor.push(text))

    def finish(self, owner: RequestFilter) -> str:
        text = ""
        if self._deny is not None:
            text = self._deny.finish()
            owner._deny(self._deny.counts, "output")
        out = self._redact(owner, self._redactor.push(text)) if text else ""
        out += self._redact(owner, self._redactor.finish())
        return out + self._restorer.finish()

    def _redact(self, owner: RequestFilter, text: str) -> str:
        if self._redactor.blocked is not None:
            owner._block(self._redactor.blocked, "output")
            raise _Stop
        return self._restorer.push(text)

    @property
    def decided(self) -> int:
        """Characters of the original that are decided."""
        held = self._redactor.held + (self._deny.held if self._deny is not None else 0)
        return self.taken - held

    @property
    def found(self) -> int:
        return sum(self.counts.values())


@dataclass(slots=True)
class _Choice:
    index: int
    is_chat: bool = True
    finished: bool = False
    channels: dict[tuple[str, ...], _Channel] = field(default_factory=dict)
    # Logprobs wait until their text is decided: (characters of the text up to there, the entries).
    logprobs: list[tuple[int, dict[str, Any]]] = field(default_factory=list)
    found: int = 0


# Fields of a delta that are a text of their own.
_PLAIN_FIELDS = ("content", "refusal", "reasoning_content", "reasoning", "text")


class StreamFilter:
    """Chunks in, chunks out, in OpenAI's shape. Held text leaves before its choice's ``finish_reason``.

    After a block one last chunk says ``finish_reason: "content_filter"`` for every open choice, and nothing of what
    was withheld leaves; ``blocked`` is then set, and the upstream can be closed.
    """

    def __init__(self, owner: RequestFilter) -> None:
        self._owner = owner
        self._choices: dict[int, _Choice] = {}
        self._template: dict[str, Any] = {}
        self._transparent = not owner._guards.acts_on_output and not owner.restores
        self._done = False

    @property
    def blocked(self) -> str | None:
        """The entity or guard that ended the stream."""
        return self._owner._tally.blocked if self._owner._tally.blocked_direction == "output" else None

    @property
    def held(self) -> int:
        """Characters kept back now, all texts together."""
        return sum(
            channel.taken - channel.decided
            for choice in self._choices.values()
            for channel in choice.channels.values()
        )

    def push(self, chunk: dict[str, Any]) -> list[dict[str, Any]]:
        """What of this chunk, and of what was held, may leave now."""
        if self._transparent:
            return [chunk]
        if self._done:
            return []
        choices = chunk.get("choices")
        if not isinstance(choices, list) or not choices:
            return [chunk]  # usage and the like
        self._template = chunk
        out: list[dict[str, Any]] = []
        kept: list[dict[str, Any]] = []
        try:
            for entry in choices:
                if isinstance(entry, dict):
                    kept += self._entry(entry)
        except _Stop:
            return self._end()
        finishing = [one for one in kept if one.get("finish_reason")]
        # A chunk may carry one entry per choice; what was held goes first, in a chunk of its own.
        flushed = [one for one in kept if not one.get("finish_reason")]
        if finishing and flushed:
            out.append(self._chunk(flushed, last=False))
            out.append(self._chunk(finishing, last=True))
        elif kept:
            out.append(self._chunk(kept, last=True))
        elif chunk.get("usage") is not None:
            out.append(self._chunk([], last=True))
        return out

    def finish(self) -> list[dict[str, Any]]:
        """The end of the upstream's stream: what is still held by choices that never said how they finished."""
        if self._transparent or self._done:
            return []
        self._done = True
        try:
            entries = [
                entry
                for choice in self._choices.values()
                if not choice.finished
                for entry in self._flush(choice)
            ]
        except _Stop:
            return self._end()
        return [self._chunk(entries, last=False)] if entries else []

    # ----------------------------------------------------------------
    def _chunk(self, entries: list[dict[str, Any]], *, last: bool) -> dict[str, Any]:
        made = {name: value for name, value in self._template.items() if name != "choices"}
        if not last and made.get("usage") is not None:
            made["usage"] = None
        made["choices"] = entries
        return made

    def _entry(self, entry: dict[str, Any]) -> list[dict[str, Any]]:
        index = entry.get("index", 0)
        if not isinstance(index, int):
            index = 0
        choice = self._choices.setdefault(index, _Choice(index, is_chat="text" not in entry))
        if choice.finished:
            return []
        made = {name: value for name, value in entry.items() if name not in ("delta", "text", "logprobs")}
        carried = False
        pushed: _Channel | None = None
        if "text" in entry:
            text, pushed = self._text(choice, ("text",), entry["text"])
            made["text"] = text if text is not None else entry["text"]
            carried = bool(text)
        delta = entry.get("delta")
        if isinstance(delta, dict):
            new, some, content = self._delta(choice, delta)
            made["delta"] = new
            carried = carried or some
            pushed = content or pushed
        logprobs = entry.get("logprobs")
        if isinstance(logprobs, dict) and pushed is not None:
            choice.logprobs.append((pushed.taken, logprobs))
        if "logprobs" in entry:
            made["logprobs"] = None
        self._release_logprobs(choice, pushed, made)
        if entry.get("finish_reason") is None:
            return [made] if carried or made.get("logprobs") else []
        # The end of this choice: first this chunk's text and what was held, then the reason.
        choice.finished = True
        rest = self._flush(choice)
        first = []
        if carried:
            first = [{**made, "finish_reason": None}]
        last = {**made, "logprobs": None} if "logprobs" in made else dict(made)
        if "delta" in made:
            last["delta"] = {}
        if "text" in made:
            last["text"] = ""
        return [*_merged(first, rest), last]

    def _text(
        self, choice: _Choice, path: tuple[str, ...], text: Any, *, json_text: bool = False
    ) -> tuple[str | None, _Channel | None]:
        if not isinstance(text, str):
            return None, None
        channel = choice.channels.get(path)
        if channel is None:
            if not text:
                return text, None
            channel = choice.channels[path] = _Channel(self._owner, json_text)
        try:
            return channel.push(self._owner, text), channel
        finally:
            self._count(choice, channel)

    def _count(self, choice: _Choice, channel: _Channel) -> None:
        """Replacements of all channels so far, into the tally of the request."""
        if not channel.counts:
            return
        total: dict[str, int] = {}
        for one in self._choices.values():
            for each in one.channels.values():
                _add(total, each.counts)
        self._owner._tally.output = total

    def _delta(self, choice: _Choice, delta: dict[str, Any]) -> tuple[dict[str, Any], bool, _Channel | None]:
        made: dict[str, Any] = {}
        carried = False
        content: _Channel | None = None
        for name, value in delta.items():
            if name in _PLAIN_FIELDS and isinstance(value, str):
                text, channel = self._text(choice, (name,), value)
                made[name] = text
                carried = carried or bool(text) or not value
                if name == "content":
                    content = channel
            elif name == "tool_calls" and isinstance(value, list):
                calls = [self._call(choice, number, call) for number, call in enumerate(value)]
                kept = [call for call in calls if call is not None]
                if kept:
                    made[name] = kept
                    carried = True
            elif name == "function_call" and isinstance(value, dict):
                call = dict(value)
                if isinstance(call.get("arguments"), str):
                    call["arguments"], _ = self._text(
                        choice, ("function_call",), call["arguments"], json_text=True
                    )
                if call.get("arguments") or "name" in call:
                    made[name] = call
                    carried = True
            elif isinstance(value, str) and name not in ("role",):
                text, _ = self._text(choice, ("delta", name), value)
                made[name] = text
                carried = carried or bool(text)
            else:
                made[name] = value
                carried = carried or value is not None
        return made, carried, content

    def _call(self, choice: _Choice, number: int, call: Any) -> dict[str, Any] | None:
        if not isinstance(call, dict):
            return None
        index = call.get("index", number)
        made = dict(call)
        bare = set(call) <= {"index", "function", "custom", "type"} and "name" not in (
            call.get("function") or {}
        )
        some = False
        for part, field_name in (("function", "arguments"), ("custom", "input")):
            inner = call.get(part)
            if isinstance(inner, dict) and isinstance(inner.get(field_name), str):
                text, _ = self._text(
                    choice, ("tool", str(index), part), inner[field_name], json_text=part == "function"
                )
                made[part] = {**inner, field_name: text}
                some = bool(text)
        return made if some or not bare else None

    def _flush(self, choice: _Choice) -> list[dict[str, Any]]:
        """What the channels of a choice still hold, as one entry."""
        delta: dict[str, Any] = {}
        text = ""
        calls: list[dict[str, Any]] = []
        for path, channel in choice.channels.items():
            try:
                rest = channel.finish(self._owner)
            finally:
                self._count(choice, channel)
            if not rest:
                continue
            if path == ("text",):
                text = rest
            elif path[0] == "tool":
                field_name = "arguments" if path[2] == "function" else "input"
                index = int(path[1]) if path[1].lstrip("-").isdigit() else 0
                calls.append({"index": index, path[2]: {field_name: rest}})
            elif path[0] == "function_call":
                delta["function_call"] = {"arguments": rest}
            else:
                delta[path[-1]] = rest
        if calls:
            delta["tool_calls"] = calls
        made: dict[str, Any] = {"index": choice.index, "finish_reason": None}
        content = choice.channels.get(("content",)) or choice.channels.get(("text",))
        self._release_logprobs(choice, content, made, everything=True)
        if delta:
            return [{**made, "delta": delta}]
        if text:
            return [{**made, "text": text}]
        if made.get("logprobs"):
            return [{**made, **({"delta": {}} if choice.is_chat else {"text": ""})}]
        return []

    def _release_logprobs(
        self, choice: _Choice, channel: _Channel | None, made: dict[str, Any], *, everything: bool = False
    ) -> None:
        """Logprobs of decided text. Around a replacement they are dropped, because they spell the original."""
        if channel is None or not choice.logprobs:
            return
        decided = channel.taken if everything else channel.decided
        ready = [one for end, one in choice.logprobs if end <= decided]
        clean = channel.found == choice.found and not self._owner.restores
        if ready and clean:
            made["logprobs"] = _joined(ready)
        if not clean:
            choice.found = channel.found
            choice.logprobs = [(end, one) for end, one in choice.logprobs if end > channel.taken]
        else:
            choice.logprobs = [(end, one) for end, one in choice.logprobs if end > decided]

    def _end(self) -> list[dict[str, Any]]:
        """The last chunk of a refused answer."""
        self._done = True
        entries: list[dict[str, Any]] = []
        for choice in self._choices.values():
            if not choice.finished or choice.channels:
                choice.finished = True
                body: dict[str, Any] = {"delta": {}} if choice.is_chat else {"text": ""}
                entries.append({"index": choice.index, **body, "finish_reason": "content_filter"})
        return [self._chunk(entries, last=False)]


def _joined(parts: list[dict[str, Any]]) -> dict[str, Any]:
    """Logprobs of several chunks as one: their lists one after the other."""
    made: dict[str, Any] = {}
    for part in parts:
        for name, value in part.items():
            if isinstance(value, list) and isinstance(made.get(name), list):
                made[name] = [*made[name], *value]
            elif made.get(name) is None:
                made[name] = value
    return made


def _merged(first: list[dict[str, Any]], rest: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One entry for the text of the last chunk and what was held, where both are plain text of the same field."""
    if not first or not rest:
        return first or rest
    one, other = first[0], rest[0]
    made = dict(one)
    if "text" in one or "text" in other:
        made["text"] = (one.get("text") or "") + (other.get("text") or "")
    delta, more = one.get("delta") or {}, other.get("delta") or {}
    if delta or more:
        joined = dict(delta)
        for name, value in more.items():
            if isinstance(value, str) and isinstance(joined.get(name), str):
                joined[name] += value
            elif joined.get(name):
                return [one, other]
            else:
                joined[name] = value
        made["delta"] = joined
    if one.get("logprobs") and other.get("logprobs"):
        made["logprobs"] = _joined([one["logprobs"], other["logprobs"]])
    elif other.get("logprobs"):
        made["logprobs"] = other["logprobs"]
    return [made]
