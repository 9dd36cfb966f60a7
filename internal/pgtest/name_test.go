package pgtest

import "testing"

// TestProcessOf checks that the names of test databases give their process, and that
// other names do not look like them.
func TestProcessOf(t *testing.T) {
	t.Parallel()

	for name, want := range map[string]string{
		"mdb_test_1799996000_ABCDEFG2_1":  "ABCDEFG2",
		"mdb_test_1799996000_ABCDEFG2_1x": "",
		"mdb_test_1799996000_abcdefg2_1":  "",
		"mdb_test_1799996000":             "",
		"mdb_test_mine":                   "",
		"mdb_testament":                   "",
		"postgres":                        "",
	} {
		if got := processOf(name); got != want {
			t.Errorf("processOf(%q) = %q, want %q", name, got, want)
		}
	}

	if name := newName(); processOf(name) != nameProcess {
		t.Errorf("processOf(%q) is not %q", name, nameProcess)
	}
}
