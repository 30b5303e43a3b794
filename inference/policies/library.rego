package signoff.library

# net.cidr_contains(range, address) as Open Policy Agent has it, for the embedded interpreter, which lacks it.
# Slow (6 ms), so it is only the way for ranges and addresses that are put together by the policy.
# Addresses become groups of 16 bits, two for IPv4 and eight for IPv6; what is no address is undefined.

pow2 := [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768, 65536]

zeros := [0, 0, 0, 0, 0, 0, 0, 0]

octet := "(25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])"

v4 := concat("", ["^(", octet, "[.]){3}", octet, "$"])

default cidr_contains(_, _) := false

# The caller's address and the ranges that the policy and its data name: worked out before (ranges.py).
cidr_contains(range, address) if {
	address == input.ip
	input.signoff_ranges[range]
}

cidr_contains(range, address) if {
	not known(range, address)
	computed(range, address)
}

known(range, address) if {
	address == input.ip
	is_boolean(input.signoff_ranges[range])
}

computed(range, address) if {
	parts := split(range, "/")
	count(parts) == 2
	regex.match("^[0-9]{1,3}$", parts[1])
	length := to_number(parts[1])
	given := split(address, "/")
	left := groups(parts[0])
	right := groups(given[0])
	count(left) == count(right)
	length <= 16 * count(left)
	narrow_enough(given, length, 16 * count(left))
	outside := [i | group := left[i]; differs(group, right[i], length - (16 * i))]
	count(outside) == 0
}

# Whether two groups differ in their first bits, as many of the 16 as the range's length leaves them.
differs(left, right, bits) if {
	bits >= 16
	left != right
}

differs(left, right, bits) if {
	bits > 0
	bits < 16
	size := pow2[16 - bits]
	floor(left / size) != floor(right / size)
}

narrow_enough(given, _, _) if count(given) == 1

narrow_enough(given, length, most) if {
	count(given) == 2
	regex.match("^[0-9]{1,3}$", given[1])
	to_number(given[1]) >= length
	to_number(given[1]) <= most
}

groups(text) := [(256 * n[0]) + n[1], (256 * n[2]) + n[3]] if {
	regex.match(v4, text)
	n := [to_number(part) | some part in split(text, ".")]
}

# An IPv4 address in IPv6 clothes is the IPv4 address.
groups(text) := groups4(trim_prefix(lower(text), "::ffff:")) if {
	startswith(lower(text), "::ffff:")
	regex.match(v4, trim_prefix(lower(text), "::ffff:"))
}

groups4(text) := [(256 * n[0]) + n[1], (256 * n[2]) + n[3]] if {
	n := [to_number(part) | some part in split(text, ".")]
}

groups(text) := six(lower(text)) if {
	contains(text, ":")
	not contains(text, ".")
}

six(text) := parsed if {
	not contains(text, "::")
	parsed := hextets(text)
	count(parsed) == 8
}

six(text) := parsed if {
	halves := split(text, "::")
	count(halves) == 2
	head := hextets(halves[0])
	tail := hextets(halves[1])
	missing := 8 - (count(head) + count(tail))
	missing >= 1
	parsed := array.concat(array.concat(head, array.slice(zeros, 0, missing)), tail)
}

hextets(text) := [] if text == ""

hextets(text) := [value(part) | some part in parts] if {
	text != ""
	parts := split(text, ":")
	wrong := [part | some part in parts; not regex.match("^[0-9a-f]{1,4}$", part)]
	count(wrong) == 0
}

value(part) := total if {
	padded := substring(concat("", ["0000", part]), count(part), 4)
	total := (((hex(padded, 0) * 4096) + (hex(padded, 1) * 256)) + (hex(padded, 2) * 16)) + hex(padded, 3)
}

hex(text, at) := indexof("0123456789abcdef", substring(text, at, 1))
