package archive_test

import (
	"testing"

	"github.com/jackc/pgx/v5/pgxpool"
)

// TestMovePanics checks that a panic of Progress leaves no connection of a pool in use, for which its Close would wait, and no lock: the same
// call continues.
func TestMovePanics(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	s.write(0, movingStream)
	m := s.mover(0, 1)
	m.Progress = func(int64) { panic("on purpose") }
	func() {
		defer func() {
			if recover() == nil {
				t.Error("Progress was not called")
			}
		}()
		_, _ = m.Move(t.Context())
	}()
	for _, pool := range []*pgxpool.Pool{m.From, m.To, s.proxy} {
		eventually(t, "no connection is in use", func() bool { return pool.Stat().AcquiredConns() == 0 })
	}
	m.Progress = nil
	mustMove(t, m)
}
