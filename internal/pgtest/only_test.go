package pgtest

import "testing"

// TestOnlyServer checks that a run for a server leaves out what does not depend on it, and
// that other runs do not.
func TestOnlyServer(t *testing.T) {
	skips := func(need func(testing.TB)) (skipped bool) {
		t.Run("test", func(t *testing.T) {
			defer func() { skipped = t.Skipped() }()
			need(t)
		})
		return skipped
	}
	for _, test := range []struct {
		only, url          string
		noServer, programs bool
	}{
		{"", "", false, false},
		{"server", "", true, false},
		{"server", "postgres://localhost", true, true},
	} {
		t.Setenv("MDB_TEST_ONLY", test.only)
		t.Setenv("MDB_TEST_DATABASE_URL", test.url)
		if got := skips(NeedNoServer); got != test.noServer {
			t.Errorf("%+v: a test without a server: skipped %v", test, got)
		}
		if got := skips(NeedPrograms); got != test.programs {
			t.Errorf("%+v: a test that starts servers: skipped %v", test, got)
		}
	}
}
