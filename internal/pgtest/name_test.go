package pgtest

import (
	"testing"
	"time"
)

// TestLeftover checks that old test databases are leftovers, and others are not.
func TestLeftover(t *testing.T) {
	t.Parallel()

	now := time.Unix(1_800_000_000, 0)
	for name, want := range map[string]bool{
		"mdb_test_1799996000_ABCDEFG2_1":  true,
		"mdb_test_1799997000_ABCDEFG2_1":  false,
		"mdb_test_1799996000_ABCDEFG2_1x": false,
		"mdb_test_1799996000_abcdefg2_1":  false,
		"mdb_test_1799996000":             false,
		"mdb_test_mine":                   false,
		"mdb_testament":                   false,
		"postgres":                        false,
	} {
		if got := leftover(name, now); got != want {
			t.Errorf("leftover(%q) = %t, want %t", name, got, want)
		}
	}

	if name := newName(); !leftover(name, time.Now().Add(2*time.Hour)) {
		t.Errorf("%q is not a leftover two hours later", name)
	}
}
