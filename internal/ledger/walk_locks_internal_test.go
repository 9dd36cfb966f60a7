package ledger

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/messagedb-go/messagedb/internal/pgtest"
)

// locksWalk is two acts of a consumer at the same time: the locks that they take must not wait
// for each other in a circle.
type locksWalk struct {
	membersWalk
	waited int
}

func newLocksWalk(t testing.TB, url string) *locksWalk {
	t.Helper()
	return &locksWalk{membersWalk: membersWalk{stage: newStage(t, url, 2, pgx.ReadCommitted)}}
}

// acts returns all acts of a member that holds all rows, and those of a member that holds none.
func (w *locksWalk) acts(m Member, held Held) map[string]program {
	row := held.Rows[0]
	statement := func(do func(ctx context.Context, conn *pgx.Conn) error) program { return program{do} }
	return map[string]program{
		"tick": w.ticks(m, held), "balance": w.balances(m), "release": w.releases(m, held), "leave": w.leaves(m, held),
		"join":                 w.joins(Member{Consumer: m.Consumer, ID: uuid.New()}, "c"),
		"join of its instance": w.joins(Member{Consumer: m.Consumer, ID: uuid.New(), Instance: m.Instance}),
		"move": {
			sql("BEGIN"), sql("INSERT INTO public.effects VALUES ($1, 1, 'A')", m.Consumer),
			func(ctx context.Context, conn *pgx.Conn) error {
				var b pgx.Batch
				QueueMove(&b, m, Move{Partition: row.Partition, Epoch: row.Epoch, From: row.Position, To: 1})
				b.Queue("COMMIT")
				err := conn.SendBatch(ctx, &b).Close()
				if err != nil {
					_ = sql("ROLLBACK")(ctx, conn)
				}
				return err
			},
		},
		"park": statement(func(ctx context.Context, conn *pgx.Conn) error {
			return Park(ctx, conn, m, row.Epoch, Parked{Partition: row.Partition, Key: "1", Stream: "a-1", Attempts: 1}, "")
		}),
		ofAnother: w.balances(w.starts("")),

		"pause": statement(func(ctx context.Context, conn *pgx.Conn) error { return Pause(ctx, conn, w.name, new(string)) }),
		"seek": statement(func(ctx context.Context, conn *pgx.Conn) error {
			_, err := Seek(ctx, conn, w.name, SeekParams{})
			return err
		}),
		"skip": statement(func(ctx context.Context, conn *pgx.Conn) error {
			_, err := Skip(ctx, conn, w.name, parkedStream, nil, true)
			return err
		}),
		skipAlone: statement(func(ctx context.Context, conn *pgx.Conn) error {
			_, err := Skip(ctx, conn, w.name, parkedAlone, nil, false)
			return err
		}),
		"replay": statement(func(ctx context.Context, conn *pgx.Conn) error {
			_, err := Replay(ctx, conn, w.name, nil)
			return err
		}),
		"resize": statement(func(ctx context.Context, conn *pgx.Conn) error {
			_, err := Resize(ctx, conn, w.name, 2*membersPartitions, time.Minute)
			return err
		}),
		"resize by barrier": statement(func(ctx context.Context, conn *pgx.Conn) error {
			_, err := Resize(ctx, conn, w.name, 2, time.Minute)
			return err
		}),
		"fork": statement(func(ctx context.Context, conn *pgx.Conn) error { return Fork(ctx, conn, w.name, w.name+" fork") }),
		"rename": statement(func(ctx context.Context, conn *pgx.Conn) error {
			return Rename(ctx, conn, w.name, w.name+" new", Guard{Force: true})
		}),
		"delete": statement(func(ctx context.Context, conn *pgx.Conn) error { return Remove(ctx, conn, w.name, Guard{Force: true}) }),
	}
}

// parkedStream is parked when the acts begin.
const (
	parkedStream = "a-9"
	parkedAlone  = "a-8" // a single message
)

func (w *locksWalk) parks(m Member, held Held) {
	w.t.Helper()
	row := held.Rows[0]
	for _, p := range []Parked{{Key: "9", Stream: parkedStream, Attempts: 1}, {Key: "8", Stream: parkedAlone, Upto: new(int64), Attempts: 1}} {
		p.Partition = row.Partition
		if err := Park(w.t.Context(), w.observer, m, row.Epoch, p, ""); err != nil {
			w.t.Fatal(err)
		}
	}
}

const (
	ofAnother = "balance of another, after its lease"
	skipAlone = "skip of a message that was parked alone"
)

var lockActs = []string{
	"tick", "balance", "release", "leave", "join", "join of its instance", "move", "park", ofAnother,
	// Those of operators.
	"pause", "seek", "skip", skipAlone, "replay", "resize", "resize by barrier", "fork", "rename", "delete",
}

// pair runs two acts in the orders of [stage.orders].
func (w *locksWalk) pair(first, second string) (n int) {
	return w.orders(2, func(choose func(of int) int) bool {
		w.begin()
		a := w.starts("pod")
		held := w.balance(a)
		w.parks(a, held)
		one, other := w.acts(a, held)[first], w.acts(a, held)[second]
		if first == ofAnother || second == ofAnother {
			w.dies(a)
		}
		w.walk([]program{one, other}, choose)
		for _, actor := range w.actors {
			if actor.waited {
				w.waited++
			}
			if err := actor.err; err != nil && !IsFenced(err) && !IsGone(err) && !isCode(err, NoConsumer) && !isCode(err, Partitions) && !isCode(err, nameTaken) {
				w.fault = fmt.Sprintf("%s and %s: %v", first, second, actor.err)
			}
		}
		return w.fault == ""
	})
}

const nameTaken = "23505"

// TestLockOrder checks that no two acts of a consumer deadlock, in the orders of [stage.orders]. An order in which two sessions that each
// hold a lock wait for the other's has one interruption.
func TestLockOrder(t *testing.T) {
	t.Parallel()
	pgtest.NeedTime(t)
	var pairs [][2]string
	for i, first := range lockActs {
		for _, second := range lockActs[i:] {
			pairs = append(pairs, [2]string{first, second})
		}
	}
	const parts = 4 // as the sessions mostly wait for each other
	for part := range parts {
		t.Run(fmt.Sprint(part), func(t *testing.T) {
			t.Parallel()
			w := newLocksWalk(t, walkDatabase(t, ""))
			total := 0
			for i := part; i < len(pairs); i += parts {
				if total += w.pair(pairs[i][0], pairs[i][1]); w.fault != "" {
					t.Fatal(w.fault)
				}
			}
			t.Logf("%d orders, in which an act waited %d times", total, w.waited)
			if w.waited == 0 {
				t.Error("no act waited for another, so the test proves nothing")
			}
		})
	}
}

// waiting returns the acts that wait for a transaction that holds a checkpoint for long.
func (w *locksWalk) waiting() (waits []string) {
	w.t.Helper()
	for _, name := range lockActs {
		w.begin()
		a := w.starts("pod")
		held := w.balance(a)
		w.parks(a, held)
		act := w.acts(a, held)[name]
		if name == ofAnother {
			w.dies(a)
		}
		row := held.Rows[0]
		holds := program{sql("BEGIN"), sql("SELECT FROM message_store_consumers.checkpoints WHERE consumer = $1 AND category = $2 AND partition = $3 FOR UPDATE",
			a.Consumer, row.Category, row.Number), sql("ROLLBACK")}
		turn := 0
		w.walk([]program{holds, act}, func(of int) int {
			if turn++; turn <= 2 {
				return 0
			}
			return of - 1 // the act, unless it waits or has ended
		})
		for _, actor := range w.actors {
			if actor.err != nil {
				w.t.Errorf("%s: %v", name, actor.err)
			}
		}
		if w.actors[1].waited {
			waits = append(waits, name)
		}
	}
	return waits
}

// TestHeldCheckpoint checks that, of the members' acts, only moves and parks wait for a transaction that holds a
// checkpoint: neither the lease of a member nor the group depends on it.
func TestHeldCheckpoint(t *testing.T) {
	t.Parallel()
	pgtest.NeedTime(t)
	w := newLocksWalk(t, walkDatabase(t, ""))
	if got, want := w.waiting(), []string{"move", "park", "seek", "skip", skipAlone, "resize", "fork", "delete"}; !slices.Equal(got, want) {
		t.Errorf("%q wait, want %q", got, want)
	}
}

// TestLockMutants checks that TestLockOrder and TestHeldCheckpoint can fail.
func TestLockMutants(t *testing.T) {
	t.Parallel()
	pgtest.NeedTime(t)
	w := newLocksWalk(t, walkDatabase(t, "tick waits", change{"tick.timeline\n      FOR NO KEY UPDATE OF c SKIP LOCKED", "tick.timeline\n      FOR NO KEY UPDATE OF c", 1}))
	if got := w.waiting(); !slices.Contains(got, "tick") {
		t.Errorf("%q wait for a checkpoint, want the tick that does not skip to be caught", got)
	}
	w = newLocksWalk(t, walkDatabase(t, "circle",
		change{"c.partition = ANY ($3)\n    FOR NO KEY UPDATE SKIP LOCKED", "c.partition = ANY ($3)\n    FOR NO KEY UPDATE", 1},
		change{"hold($1, $2, $3, $4, $5);\n  IF $9", "hold($1, $2, $3, $4, $5);\n  PERFORM message_store_consumers.ring($1);\n  IF $9", 1}))
	if n := w.pair("park", ofAnother); w.fault == "" {
		t.Errorf("none of %d orders has a deadlock, want the park that takes the mutex after a checkpoint to be caught", n)
	}
	t.Log(w.fault)
}
