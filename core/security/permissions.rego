package signoff.permissions

# Who may do what. Default deny. `input` is {kind, roles, scopes, action, public}.
# Actions are "<noun>.<verb>"; data.roles and data.nouns come from permissions_data.json.

default allow := false

allow if {
	input.kind == "system"
}

# A role's grants; "release.*" and "*.view" are patterns over noun and verb.
allow if {
	input.kind == "user"
	some role in input.roles
	some grant in data.roles[role]
	matches(grant, input.action)
	not data.operator_only[input.action]
}

allow if {
	input.kind == "operator"
	some grant in data.roles.operator
	matches(grant, input.action)
}

# A key may do what its scopes say and never what only a person may do.
allow if {
	input.kind == "api_key"
	some grant in input.scopes
	matches(grant, input.action)
	not data.person_only[input.action]
	not data.operator_only[input.action]
}

# A key of the operators' site manages tenants, as operators do.
allow if {
	input.kind == "api_key"
	input.public
	some grant in input.scopes
	matches(grant, input.action)
	not data.person_only[input.action]
}

matches(grant, action) if {
	grant == action
}

matches(grant, action) if {
	grant == "*"
	action != ""
}

matches(grant, action) if {
	parts := split(grant, ".")
	parts[1] == "*"
	startswith(action, concat("", [parts[0], "."]))
}

matches(grant, action) if {
	parts := split(grant, ".")
	parts[0] == "*"
	endswith(action, concat("", [".", parts[1]]))
}
