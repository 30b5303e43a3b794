"""The policy of a tenant that has written none."""

from __future__ import annotations

DEFAULT_VERSION = "default-1"
DEFAULT_POLICY = """\
package signoff.gateway

# In force until a version of your own is active: keys whose scopes include gateway.call may call every release,
# caches are as the release says, and no prompt or answer is kept.

default allow := false

allow if {
	some scope in input.key.scopes
	scope in {"gateway.call", "gateway.*", "*"}
}

reason := "The key has no scope that includes gateway.call." if not allow

retain_days := 0
"""
DEFAULT_TESTS = """\
package signoff.gateway_test

import data.signoff.gateway

test_a_key_with_the_scope_may_call if {
	gateway.allow with input as {"key": {"scopes": ["gateway.call"]}}
}

test_a_key_without_the_scope_may_not if {
	not gateway.allow with input as {"key": {"scopes": ["release.view"]}}
}

test_nothing_is_kept if {
	gateway.retain_days == 0 with input as {"key": {"scopes": ["*"]}}
}
"""
