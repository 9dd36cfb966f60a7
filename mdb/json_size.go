package mdb

import (
	"bytes"
	"strconv"
)

// Limits of PostgreSQL's type numeric, in digits before and after the decimal point.
const (
	numericInteger  = 131072
	numericFraction = 16383
)

// printedGrowth is the most by which JSON can grow when it is read: 1e131071, which is 8
// bytes, is printed with 131,072 digits.
const printedGrowth = numericInteger / len("1e131071")

// readSize returns how many bytes of JSON a message takes when it is written or read,
// whichever is more.
func readSize(data, metadata []byte) int {
	return max(len(data), printedSize(data)) + max(len(metadata), printedSize(metadata))
}

// printedSize returns how many bytes PostgreSQL prints for valid JSON, at most. It prints
// numbers without exponents, and one space after each comma and colon. Escapes and repeated
// keys, which only make it shorter, are not considered.
func printedSize(raw []byte) int {
	size := 0
	for i := 0; i < len(raw); {
		switch raw[i] {
		case '"':
			n := stringLength(raw[i:])
			size += n
			i += n
		case ' ', '\t', '\n', '\r':
			i++
		case ',', ':':
			size += 2
			i++
		case '-', '0', '1', '2', '3', '4', '5', '6', '7', '8', '9':
			n, exponent := numberLength(raw[i:])
			if exponent < 0 {
				size += n
			} else {
				size += printedNumber(raw[i:i+n], exponent)
			}
			i += n
		default:
			size++
			i++
		}
	}
	return size
}

// stringLength returns the length of the string at the beginning of raw.
func stringLength(raw []byte) int {
	for end := 1; ; end++ {
		next := bytes.IndexByte(raw[end:], '"')
		if next < 0 {
			return len(raw)
		}
		end += next
		escapes := 0
		for raw[end-1-escapes] == '\\' {
			escapes++
		}
		if escapes%2 == 0 {
			return end + 1
		}
	}
}

// numberLength returns the length of the number at the beginning of raw, and the index of
// the letter of its exponent, or -1.
func numberLength(raw []byte) (n, exponent int) {
	exponent = -1
	for n = range raw {
		switch c := raw[n]; {
		case '0' <= c && c <= '9', c == '.', c == '-', c == '+':
		case c == 'e' || c == 'E':
			exponent = n
		default:
			return n, exponent
		}
	}
	return len(raw), exponent
}

// printedNumber returns the length of a number without its exponent. If it has more digits
// than PostgreSQL accepts, the server rejects the write.
func printedNumber(number []byte, exponent int) int {
	mantissa := bytes.TrimPrefix(number[:exponent], []byte("-"))
	power, err := strconv.Atoi(string(number[exponent+1:]))
	if err != nil {
		return len(number)
	}
	power = min(max(power, -2*numericInteger), 2*numericInteger)
	integer, fraction, _ := bytes.Cut(mantissa, []byte("."))
	before := len(integer) + power
	if integer[0] == '0' {
		significant := bytes.TrimLeft(fraction, "0")
		before = power - (len(fraction) - len(significant))
		if len(significant) == 0 {
			before = 0 // the number is zero
		}
	}
	after := max(0, len(fraction)-power)
	if before > numericInteger || after > numericFraction {
		return len(number)
	}
	size := len(number[:exponent]) - len(mantissa) + max(1, before)
	if after > 0 {
		size += len(".") + after
	}
	return size
}
