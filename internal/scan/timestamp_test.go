package scan_test

import (
	"math"
	"testing"
	"time"
)

// TestTimestamp checks that timestamps from the first to the last are read exactly, in
// text and in binary.
func TestTimestamp(t *testing.T) {
	t.Parallel()
	date := func(year int, month time.Month, day, hour, minute, second, micro int) time.Time {
		return time.Date(year, month, day, hour, minute, second, micro*1000, time.UTC)
	}
	// time.Time.Sub cannot span this range, so the microseconds are spelled out.
	tests := []struct {
		text   string
		micros int64
		want   time.Time
	}{
		{"2000-01-01 00:00:00", 0, date(2000, 1, 1, 0, 0, 0, 0)},
		{"2000-01-01 00:00:00.000001", 1, date(2000, 1, 1, 0, 0, 0, 1)},
		{"1999-12-31 23:59:59.999999", -1, date(1999, 12, 31, 23, 59, 59, 999999)},
		{"1999-12-31 23:59:59", -1_000_000, date(1999, 12, 31, 23, 59, 59, 0)},
		{"1970-01-01 00:00:00", -946684800_000000, date(1970, 1, 1, 0, 0, 0, 0)},
		{"1969-12-31 23:59:58.5", -946684801_500000, date(1969, 12, 31, 23, 59, 58, 500000)},
		{"2026-11-23 14:49:44.123456", 848760584_123456, date(2026, 11, 23, 14, 49, 44, 123456)},
		{"2026-11-23 14:49:44.1", 848760584_100000, date(2026, 11, 23, 14, 49, 44, 100000)},
		{"2024-02-29 00:00:00", 762480000_000000, date(2024, 2, 29, 0, 0, 0, 0)},
		{"0001-01-01 00:00:00", -63082281600_000000, date(1, 1, 1, 0, 0, 0, 0)},
		{"0001-12-31 23:59:59.25 BC", -63082281600_750000, date(0, 12, 31, 23, 59, 59, 250000)},
		{"0001-02-29 00:00:00 BC", -63108806400_000000, date(0, 2, 29, 0, 0, 0, 0)},
		{"4714-11-24 00:00:00 BC", -211813488000_000000, date(-4713, 11, 24, 0, 0, 0, 0)},
		{"10000-01-01 00:00:00", 252455616000_000000, date(10000, 1, 1, 0, 0, 0, 0)},
		{"294276-12-31 23:59:59.999999", 9223371331199_999999, date(294276, 12, 31, 23, 59, 59, 999999)},
		{"infinity", math.MaxInt64, date(294277, 1, 9, 4, 0, 54, 775807)},
		{"-infinity", math.MinInt64, date(-290278, 12, 22, 19, 59, 5, 224192)},
	}
	for _, tt := range tests {
		t.Run(tt.text, func(t *testing.T) {
			t.Parallel()
			for name, got := range map[string]time.Time{
				"text":   readTime(t, textFmt, []byte(tt.text)),
				"binary": readTime(t, binaryFmt, int8Bytes(tt.micros)),
			} {
				// Comparing the structs compares the location too.
				if got != tt.want {
					t.Errorf("%s: %v, want %v", name, got, tt.want)
				}
			}
		})
	}
}

// TestInfinityOrder checks that the infinities sort before and after all other times.
func TestInfinityOrder(t *testing.T) {
	t.Parallel()
	ordered := []string{"-infinity", "4714-11-24 00:00:00 BC", "2026-11-23 14:49:44", "294276-12-31 23:59:59.999999", "infinity"}
	for i := range ordered[1:] {
		before, after := readTime(t, textFmt, []byte(ordered[i])), readTime(t, textFmt, []byte(ordered[i+1]))
		if !before.Before(after) {
			t.Errorf("%s (%v) is not before %s (%v)", ordered[i], before, ordered[i+1], after)
		}
	}
}

// TestTimestampErrors checks that what the server never writes is rejected.
func TestTimestampErrors(t *testing.T) {
	t.Parallel()
	for _, text := range []string{
		"", "now", "Infinity", "infinity ", "+infinity", " BC", "-", "----------------------",
		"2026-11-23", "2026-11-23 14:49", "2026-11-23 14:49:4", "2026-11-23 14:49:444",
		"2026-11-23T14:49:44", "2026/11/23 14:49:44", "2026-11-23 14.49.44", "2026-11-23 14:49-44",
		"2026-11-23 14:49:44Z", "2026-11-23 14:49:44+00", "2026-11-23 14:49:44 AD", "2026-11-23 14:49:44BC",
		" 2026-11-23 14:49:44", "2026-11-23 14:49:44 ", "2026-11-23 14:49:44,5",
		"2026-11-23 14:49:44.", "2026-11-23 14:49:44.1234567", "2026-11-23 14:49:44.12x", "2026-11-23 14:49:44.-1",
		"2026-00-23 14:49:44", "2026-13-23 14:49:44", "2026-11-00 14:49:44", "2026-11-31 14:49:44",
		"2026-02-29 00:00:00", "1900-02-29 00:00:00", "0002-02-29 00:00:00 BC",
		"2026-11-23 24:00:00", "2026-11-23 23:60:00", "2026-11-23 23:59:60",
		"2026-+1-23 14:49:44", "2026-11--3 14:49:44", "2026-11-23 -1:49:44",
		"0000-01-01 00:00:00", "0000-01-01 00:00:00 BC", "+2026-11-23 14:49:44", "-2026-11-23 14:49:44",
		"999-11-23 14:49:44", "20x6-11-23 14:49:44", "1000000-01-01 00:00:00",
		"294277-01-01 00:00:00", "999999-12-31 23:59:59.999999",
		"4714-11-23 23:59:59.999999 BC", "999999-01-01 00:00:00 BC",
	} {
		row := textRow()
		row[colTime] = []byte(text)
		if err := addOne(t, messageColumns(textFmt), row); err == nil {
			t.Errorf("%q: no error", text)
		}
	}
	for _, micros := range []int64{math.MinInt64 + 1, -211813488000_000001, 9223371331200_000000, math.MaxInt64 - 1} {
		row := binaryRow()
		row[colTime] = int8Bytes(micros)
		if err := addOne(t, messageColumns(binaryFmt), row); err == nil {
			t.Errorf("%d: no error", micros)
		}
	}
}

func readTime(t *testing.T, format int16, value []byte) time.Time {
	t.Helper()
	row := textRow()
	if format == binaryFmt {
		row = binaryRow()
	}
	row[colTime] = value
	return readPage(t, messageColumns(format), row)[0].Time
}
