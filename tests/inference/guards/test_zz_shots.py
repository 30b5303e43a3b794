import pytest


@pytest.mark.browser
def test_shots(page, sign_in, live_site, user_with):
    import uuid

    from django.utils import timezone

    from core.security.actor import SYSTEM, use_actor
    from inference.guards.services import profile_save
    from inference.ledger.models import LedgerEntry

    with use_actor(SYSTEM):
        profile_save(
            name="support",
            config={
                "redaction": {
                    "entities": {"EMAIL": "restore"},
                    "custom": [{"name": "EMP", "pattern": "EMP-[0-9]+"}],
                },
                "guards": [{"kind": "deny_words", "words": ["heron"]}, {"kind": "injection"}],
            },
            note="Codenames are refused",
        )
    for n in range(30):
        LedgerEntry.objects.create(
            id=uuid.uuid4(),
            created_at=timezone.now(),
            redactions={"prompt": {"EMAIL_ADDRESS": n % 3}, "output": {"PHONE_NUMBER": 1}},
            guards={
                "profile": "default@1",
                "blocked": "deny_words" if n % 10 == 0 else None,
                "blocked_direction": "output",
            },
        )
    user = user_with("security")
    sign_in(user)
    bad = []
    page.on("console", lambda m: bad.append(m.text) if m.type == "error" else None)
    for theme in ("light", "dark"):
        page.emulate_media(color_scheme=theme)
        for w in (1440, 390):
            page.set_viewport_size({"width": w, "height": 900})
            for name, url in (
                ("list", "/gateway/guards/"),
                ("detail", "/gateway/guards/support@1/"),
                ("form", "/gateway/guards/new/?from=support@1"),
            ):
                page.goto(url)
                if name != "list":
                    page.fill(
                        "textarea[name=text]", "Write to jane@example.com, card 4111 1111 1111 1111, EMP-12"
                    )
                    page.click("text=Try this text")
                    page.wait_for_selector("#trial .code, #trial pre", timeout=5000)
                page.screenshot(path=f"/tmp/w/redact/{name}-{w}-{theme}.png", full_page=True)
                assert page.evaluate("document.documentElement.scrollWidth") <= w, (name, w)
    print(bad)
