package pgtest

import (
	"errors"
	"os"
	"testing"
)

// Own starts a server for this test alone and stops it at the end of the test. Use it
// to restart a server, change its settings, or create roles. It skips the test like
// [NeedPrograms].
func Own(t testing.TB, opts ...Option) *Server {
	t.Helper()

	NeedPrograms(t)
	s, err := Start(t.Context(), opts...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Stop(); err != nil {
			t.Error(err)
		}
	})

	return s
}

// NeedPrograms skips the test if MDB_TEST_DATABASE_URL is set and the machine has no
// PostgreSQL programs to start another server from. Without either, it does nothing,
// and the start of the server fails. It also skips the test if only tests of the server at
// MDB_TEST_DATABASE_URL should run, see [NeedNoServer].
func NeedPrograms(t testing.TB) {
	t.Helper()

	if os.Getenv("MDB_TEST_DATABASE_URL") == "" {
		return
	}
	if onlyServer() {
		t.Skip("starts servers of its own, skipped because of MDB_TEST_ONLY=server")
	}
	if _, _, err := Find(t.Context()); errors.Is(err, ErrNotFound) {
		t.Skip("needs its own server, and PostgreSQL is not installed on this machine")
	}
}

// NeedNoServer skips a test that uses no server if MDB_TEST_ONLY is "server". Runs on a further
// server set that, because the result would be that of the first run.
func NeedNoServer(t testing.TB) {
	t.Helper()

	if onlyServer() {
		t.Skip("uses no server, skipped because of MDB_TEST_ONLY=server")
	}
}

func onlyServer() bool { return os.Getenv("MDB_TEST_ONLY") == "server" }

// NeedTime skips a test that takes long if -short is set.
func NeedTime(t testing.TB) {
	t.Helper()

	if testing.Short() {
		t.Skip("takes long, skipped with -short")
	}
}
