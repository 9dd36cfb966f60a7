package scan

import (
	"bytes"
	"encoding/binary"
	"math"
	"time"
)

const (
	// epoch is PostgreSQL's epoch, 2000-01-01, in Unix seconds.
	epoch = 946684800

	// PostgreSQL's finite timestamps, in seconds from its epoch: from 4714-11-24
	// BC to before 294277-01-01. No server sends a value between these and the two
	// infinities.
	minSecond = -211813488000
	endSecond = 9223371331200

	microsPerSecond = 1_000_000

	infinity    = math.MaxInt64
	negInfinity = math.MinInt64
)

// timeOf splits micros into seconds first, because microseconds since 1970 overflow
// for the last timestamps.
func timeOf(micros int64) time.Time {
	return time.Unix(epoch+micros/microsPerSecond, micros%microsPerSecond*1000).UTC()
}

func decodeTimestamp(v []byte, isBinary bool) (micros int64, ok bool) {
	if !isBinary {
		return parseTimestamp(v)
	}
	if len(v) != 8 {
		return 0, false
	}
	n := int64(binary.BigEndian.Uint64(v))
	switch n {
	case infinity, negInfinity:
		return n, true
	}
	return n, n >= minSecond*microsPerSecond && n < endSecond*microsPerSecond
}

// parseTimestamp parses what the server writes in the ISO DateStyle,
//
//	year-mm-dd hh:mm:ss[.f][ BC]
//
// with a year of four to six digits and a fraction of one to six.
func parseTimestamp(v []byte) (micros int64, ok bool) {
	switch string(v) {
	case "infinity":
		return infinity, true
	case "-infinity":
		return negInfinity, true
	}

	v, bc := bytes.CutSuffix(v, []byte(" BC"))
	n := bytes.IndexByte(v, '-')
	if n < 4 || n > 6 {
		return 0, false
	}
	year := number(v[:n])

	const shape = "-mm-dd hh:mm:ss"
	v = v[n:]
	if len(v) < len(shape) || v[3] != '-' || v[6] != ' ' || v[9] != ':' || v[12] != ':' {
		return 0, false
	}
	month, day := number(v[1:3]), number(v[4:6])
	hour, minute, second := number(v[7:9]), number(v[10:12]), number(v[13:15])
	fraction, ok := parseFraction(v[len(shape):])
	if !ok || year < 1 || hour < 0 || hour > 23 || minute < 0 || minute > 59 || second < 0 || second > 59 {
		return 0, false
	}
	if bc {
		year = 1 - year
	}

	// Date normalizes a day that is not in the calendar to another one.
	t := time.Date(year, time.Month(month), day, hour, minute, second, 0, time.UTC)
	if t.Month() != time.Month(month) || t.Day() != day {
		return 0, false
	}
	// Checking the range first keeps the multiplication from overflowing.
	s := t.Unix() - epoch
	if s < minSecond || s >= endSecond {
		return 0, false
	}
	return s*microsPerSecond + int64(fraction), true
}

// parseFraction rejects more than six digits, the server's precision: rounding a
// seventh would return a time that the server did not store.
func parseFraction(v []byte) (micros int, ok bool) {
	if len(v) == 0 {
		return 0, true
	}
	if v[0] != '.' || len(v) < 2 || len(v) > 7 {
		return 0, false
	}
	micros = number(v[1:])
	for range 7 - len(v) {
		micros *= 10
	}
	return micros, micros >= 0
}

// number parses at most six digits. It returns -1 if v contains anything else.
func number(v []byte) int {
	n := 0
	for _, c := range v {
		if c < '0' || c > '9' {
			return -1
		}
		n = n*10 + int(c-'0')
	}
	return n
}
