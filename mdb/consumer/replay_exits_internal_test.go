package consumer

import (
	"context"
	"errors"
	"runtime"
	"testing"
	"testing/synctest"

	"github.com/messagedb-go/messagedb/internal/ledger"
	"github.com/messagedb-go/messagedb/mdb"
)

// An exitingDesk is a desk of which one method calls runtime.Goexit.
type exitingDesk struct {
	desk

	at string
}

func (s *exitingDesk) exits(at string) {
	if s.at == at {
		runtime.Goexit()
	}
}

func (s *exitingDesk) beginTurn(ctx context.Context, k ledger.Key, mv *ledger.Move) ([]ledger.Parked, error) {
	if mv != nil {
		s.exits("move")
	}
	s.exits("begin")
	return s.desk.beginTurn(ctx, k, mv)
}

func (s *exitingDesk) reading(ledger.Anchor) readStream {
	return func(ctx context.Context, stream string, from int64, most int) ([]mdb.Message, *mdb.UnreadableError, error) {
		s.exits("read")
		return s.read(ctx, stream, from, most)
	}
}

func (s *exitingDesk) record(ctx context.Context, mv *ledger.Move, p partition, epoch int64, steps []step, failed *ledger.Postponed) error {
	if len(steps) > 0 {
		s.exits("record")
	}
	if failed != nil {
		s.exits("postpone")
	}
	return s.desk.record(ctx, mv, p, epoch, steps, failed)
}

func (s *exitingDesk) unpark(ctx context.Context, mv ledger.Move, key string) error {
	s.exits("unpark")
	return s.desk.unpark(ctx, mv, key)
}

// TestReplayExits checks that a function which ends the goroutine of a replay, as a tracer of pgx in a test may, stops the consumer with
// an error, whatever the replay is doing.
func TestReplayExits(t *testing.T) {
	for _, at := range []string{"move", "begin", "read", "record", "postpone", "unpark", "policy"} {
		t.Run(at, func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				s := &exitingDesk{at: at}
				r := newRig(t, engineConfig{replays: s, policy: func(f Failure) Action {
					s.exits("policy")
					return f.Default()
				}})
				s.park("a", 1, false, true)
				if at == "policy" || at == "postpone" {
					r.fails(1, 99, Permanent(errBroken))
				}
				r.claim(ledger.Row{Partition: orders(0), Epoch: 1, Position: 1}, s.rows)
				if at == "move" { // the checkpoint that is stored has not reached what is passed over
					r.give(0, 1, "a")
					synctest.Wait()
				}
				r.replay([]ledger.Key{{Partition: orders(0), Key: "a"}})
				err := <-r.ended
				var handler *mdb.HandlerError
				switch is := errors.As(err, &handler); {
				case at == "policy" || at == "postpone":
					if !is || handler.GlobalPosition != 1 || !errors.Is(err, errHandlerExits) {
						t.Errorf("got error %v, want a HandlerError of message 1", err)
					}
				case is || !errors.Is(err, errReplayExits):
					t.Errorf("got error %v, want %v", err, errReplayExits)
				}
				for _, p := range r.parts {
					if p.offered || p.running != 0 {
						t.Errorf("%v: offered %t, and %d calls are running", p.id, p.offered, p.running)
					}
				}
			})
		})
	}
}
