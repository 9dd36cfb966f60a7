package pgtest

import (
	"errors"
	"os"
	"testing"
)

// Own starts a server of the test's own, which is stopped at its end. It is for tests
// that restart a server, change its settings, or make roles, see [NeedPrograms].
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

// NeedPrograms skips the test where MDB_TEST_DATABASE_URL lends a server, but the
// machine has no programs to start another one from. Where there is neither, it is for
// the start to fail.
func NeedPrograms(t testing.TB) {
	t.Helper()

	if os.Getenv("MDB_TEST_DATABASE_URL") == "" {
		return
	}
	if _, _, err := Find(t.Context()); errors.Is(err, ErrNotFound) {
		t.Skip("needs a server of its own, and PostgreSQL's programs are not on this machine")
	}
}

// NeedTime skips a test that takes long where -short asks for that, as CI does where it
// repeats the suite for the sake of one more server.
func NeedTime(t testing.TB) {
	t.Helper()

	if testing.Short() {
		t.Skip("takes long, so left out with -short")
	}
}
