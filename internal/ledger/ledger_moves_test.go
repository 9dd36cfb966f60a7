package ledger_test

import (
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/messagedb-go/messagedb/internal/ledger"
	"github.com/messagedb-go/messagedb/internal/testdb"
)

// forged returns moves of the row that the fence has to refuse.
func forged(g *group, r ledger.Row) map[string]ledger.Move {
	m := map[string]ledger.Move{}
	add := func(what string, change func(mv *ledger.Move)) {
		mv := move(r, r.Position+10)
		change(&mv)
		m[what] = mv
	}
	add("an earlier epoch", func(mv *ledger.Move) { mv.Epoch-- })
	add("a later epoch", func(mv *ledger.Move) { mv.Epoch++ })
	add("an earlier position", func(mv *ledger.Move) { mv.From-- })
	add("a later position", func(mv *ledger.Move) { mv.From++ })
	add("backwards", func(mv *ledger.Move) { mv.To = mv.From - 1 })
	add("another category", func(mv *ledger.Move) { mv.Category = "none" })
	add("another partition", func(mv *ledger.Move) { mv.Number = 99 })
	// Moves of another history of the store.
	position, anchor := g.write(r.Position + 2)
	add("no such message", func(mv *ledger.Move) { mv.To, mv.Anchor = position, ledger.Anchor{ID: uuid.New(), Time: anchor.Time} })
	add("a message of another time", func(mv *ledger.Move) {
		mv.To, mv.Anchor = position, ledger.Anchor{ID: anchor.ID, Time: anchor.Time.Add(time.Microsecond)}
	})
	add("a message after the position", func(mv *ledger.Move) { mv.To, mv.Anchor = position-1, anchor })
	return m
}

// TestBeatMoves checks which moves a tick makes, skips because of a lock, and refuses.
func TestBeatMoves(t *testing.T) {
	t.Parallel()
	g := newGroup(t)
	a, b := g.join(g.params("one", "two")), g.join(g.params("one", "two"))
	_, held := g.balance(a)
	_, others := g.balance(b)

	position, anchor := g.write(8)
	first := move(held.Rows[0], position)
	first.Anchor = anchor
	tick := g.beat(a, first, move(held.Rows[1], 0), move(others.Rows[0], 3))
	equal(t, "moved", tick.Moved, []int{0, 1})
	equal(t, "refused", tick.Refused, []int{2})
	rows := g.read(a).Rows
	equal(t, "positions", positions(rows), []int64{position, 0, 0, 0})
	if got := rows[0].Anchor; got.ID != anchor.ID || !got.Time.Equal(anchor.Time) || rows[1].Anchor != (ledger.Anchor{}) {
		t.Errorf("got the anchors %+v and %+v, want %+v and none", got, rows[1].Anchor, anchor)
	}

	for what, mv := range forged(g, rows[0]) {
		tick := g.beat(a, move(rows[2], rows[2].Position), mv)
		equal(t, what+": moved", tick.Moved, []int{0})
		equal(t, what+": refused", tick.Refused, []int{1})
	}
	g.locked(func() {
		tick := g.beat(a, move(rows[0], position+1), move(rows[1], 9), move(rows[3], 9))
		equal(t, "moved beside a lock", tick.Moved, []int{0, 2})
		equal(t, "skipped", tick.Skipped, []int{1})
		equal(t, "refused beside a lock", tick.Refused, nil)
	}, lockRow, rows[1].Category, rows[1].Number)
	equal(t, "positions", positions(g.read(a).Rows), []int64{position + 1, 0, 0, 9})
	equal(t, "positions of the other member", positions(g.read(b).Rows), []int64{0, 0, 0, 0})
}

// TestBeatReports checks what else a tick does and says.
func TestBeatReports(t *testing.T) {
	t.Parallel()
	g := newGroup(t)
	a, b := g.join(g.params("one")), g.join(g.params("one"))
	_, held := g.balance(a)
	g.balance(b)
	g.exec(`UPDATE message_store_consumers.members SET seen = seen - interval '20 seconds', info = 'old' WHERE consumer = $1`)

	tick := g.beat(a)
	if !tick.Alive || tick.Replaced || tick.Paused || tick.Barrier != nil || tick.Suspects || tick.Due || !strings.HasPrefix(tick.Timeline[8:], "/") {
		t.Errorf("got %+v, want nothing special", tick)
	}
	state := `SELECT pg_catalog.concat_ws(' ', m.info, m.woke IS NULL, m.seen > pg_catalog.clock_timestamp() - interval '10 seconds')
		FROM message_store_consumers.members AS m WHERE m.consumer = $1 AND m.id = $2`
	equal(t, "the member's row", query[string](g, state, a.ID), "old t t")
	if _, err := ledger.Beat(t.Context(), g, a, "new", nil); err != nil {
		t.Fatal(err)
	}
	equal(t, "the member's row", query[string](g, state, a.ID), "new t t")
	equal(t, "the other member's row", query[string](g, state, b.ID), "old t f")

	// More than half of a lease is a silence.
	g.exec(`UPDATE message_store_consumers.members SET seen = seen - interval '31 seconds' WHERE consumer = $1`)
	g.beat(a)
	equal(t, "the member's row after a silence", query[string](g, state, a.ID), "new f t")

	g.exec(`UPDATE message_store_consumers.members SET seen = seen - interval '1 minute' WHERE consumer = $1 AND id = $2`, b.ID)
	g.exec(`UPDATE message_store_consumers.consumers SET paused = 'test', barrier = 70 WHERE id = $1`)
	if tick := g.beat(a); !tick.Suspects || !tick.Paused || tick.Barrier == nil || *tick.Barrier != 70 {
		t.Errorf("got %+v, want a suspect, a pause and a barrier", tick)
	}

	past, future := time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	for _, test := range []struct {
		due  *time.Time
		want bool
	}{{nil, false}, {&future, false}, {&past, true}} {
		r := held.Rows[0]
		if err := ledger.Park(t.Context(), g, a, r.Epoch, ledger.Parked{Partition: r.Partition, Key: "1", Stream: "one-1", Due: test.due}, ""); err != nil {
			t.Fatal(err)
		}
		equal(t, "due", g.beat(a).Due, test.want)
		equal(t, "due for another member", g.beat(b).Due, false)
	}

	g.exec(`DELETE FROM message_store_consumers.members WHERE consumer = $1 AND id = $2`, a.ID)
	if tick := g.beat(a, move(held.Rows[0], 5)); tick.Alive || tick.Replaced {
		t.Errorf("got %+v, want that the member is gone", tick)
	}
	equal(t, "position", query[int64](g, `SELECT max(position) FROM message_store_consumers.checkpoints WHERE consumer = $1`), 0)
}

// TestBeatWaitsForNoDisk checks that a tick commits asynchronously.
func TestBeatWaitsForNoDisk(t *testing.T) {
	t.Parallel()
	g := newGroup(t)
	a := g.join(g.params("one"))
	tx, err := g.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := ledger.Beat(t.Context(), tx, a, "", nil); err != nil {
		t.Fatal(err)
	}
	var setting string
	if err := tx.QueryRow(t.Context(), "SHOW synchronous_commit").Scan(&setting); err != nil || setting != "off" {
		t.Errorf("got %q, %v, want off", setting, err)
	}
	if err := tx.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := g.QueryRow(t.Context(), "SHOW synchronous_commit").Scan(&setting); err != nil || setting == "off" {
		t.Errorf("got %q, %v after the transaction", setting, err)
	}
}

// TestQueueMove checks that a move commits together with an effect, and that a move which the fence
// refuses rolls the effect back although COMMIT was sent with it.
func TestQueueMove(t *testing.T) {
	t.Parallel()
	g := newGroup(t)
	a := g.join(g.params("one"))
	_, held := g.balance(a)
	commit := func(m ledger.Member, mv ledger.Move) error {
		t.Helper()
		conn, err := g.Acquire(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Release()
		if _, err := conn.Exec(t.Context(), "BEGIN"); err != nil {
			t.Fatal(err)
		}
		if _, err := conn.Exec(t.Context(), "UPDATE message_store_consumers.members SET info = info || '+' WHERE id = $1", a.ID); err != nil {
			t.Fatal(err)
		}
		var b pgx.Batch
		ledger.QueueMove(&b, m, mv)
		b.Queue("COMMIT")
		err = conn.SendBatch(t.Context(), &b).Close()
		if err != nil {
			if _, err := conn.Exec(t.Context(), "ROLLBACK"); err != nil {
				t.Fatal(err)
			}
		}
		return err
	}
	const info = `SELECT info FROM message_store_consumers.members WHERE consumer = $1`
	r := held.Rows[0]
	if err := commit(a, move(r, 4)); err != nil {
		t.Fatal(err)
	}
	equal(t, "effect", query[string](g, info), "test+")
	r = g.read(a).Rows[0]
	equal(t, "position", r.Position, 4)

	for what, mv := range forged(g, r) {
		if err := commit(a, mv); !ledger.IsFenced(err) || ledger.IsGone(err) {
			t.Errorf("%s: got %v, want that the fence refuses it", what, err)
		}
	}
	stranger := a
	stranger.ID = uuid.New()
	if err := commit(stranger, move(r, 5)); !ledger.IsFenced(err) {
		t.Errorf("another member: got %v, want that the fence refuses it", err)
	}
	equal(t, "effect", query[string](g, info), "test+")
	equal(t, "position", g.read(a).Rows[0].Position, 4)
}

// TestRelease checks that partitions are released with their positions and as a whole, or not at all.
func TestRelease(t *testing.T) {
	t.Parallel()
	g := newGroup(t)
	a := g.join(g.params("one", "two"))
	_, held := g.balance(a)
	all := moves(held.Rows, 6)
	changes := g.beat(a).Changes

	release := func(ms ...ledger.Move) []int {
		t.Helper()
		released, err := ledger.Release(t.Context(), g, a, ms)
		if err != nil {
			t.Fatal(err)
		}
		return released
	}
	for what, mv := range forged(g, held.Rows[0]) {
		equal(t, what, len(release(mv)), 0)
	}
	equal(t, "changes", g.beat(a).Changes, changes)

	fenced := all[1]
	fenced.From++
	g.locked(func() {
		g.locked(func() {
			// Partition 0: a move is refused. 1: a row is locked. 2: a category is not listed. 3: that is locked, too.
			equal(t, "released", release(all[0], fenced, all[2], all[3], all[4], all[6]), []int{4})
		}, lockRow, "two", 1)
	}, lockRow, "two", 3)
	equal(t, "partitions", numbers(g.read(a).Rows), []int{0, 1, 3})
	const rows = `SELECT array_agg(position ORDER BY category) FROM message_store_consumers.checkpoints WHERE consumer = $1 AND partition = $2`
	equal(t, "positions of partition 2", query[[]int64](g, rows, 2), []int64{6, 0})
	equal(t, "positions of partition 0", query[[]int64](g, rows, 0), []int64{0, 0})
	if after := g.beat(a).Changes; after == changes {
		t.Error("the release is not a change for the other members")
	}
	changes = g.beat(a).Changes
	equal(t, "released again", len(release(all[4])), 0)
	equal(t, "changes", g.beat(a).Changes, changes)
}

// TestLeave checks that a member that leaves frees all its partitions, with the positions that
// the fence allows.
func TestLeave(t *testing.T) {
	t.Parallel()
	g := newGroup(t)
	a := g.join(g.params("one"))
	_, held := g.balance(a)
	b := g.join(g.params("one"))
	changes := g.beat(b).Changes
	ms := moves(held.Rows, 6)
	ms[1].Epoch--
	ms[3].Anchor = ledger.Anchor{ID: uuid.New(), Time: time.Now()} // of another history
	g.locked(func() {
		for range 2 { // the outcome of the first may be unknown
			if err := ledger.Leave(t.Context(), g, a, ms); err != nil {
				t.Fatal(err)
			}
		}
	}, lockRow, "one", 2)
	tick := g.beat(b)
	equal(t, "changes", tick.Changes, changes+1)
	if g.beat(a).Alive {
		t.Error("the member has not left")
	}
	balance, after := g.balance(b)
	equal(t, "balance", balance, ledger.Balance{Members: 1, Quota: 4, Claimed: 4})
	equal(t, "positions", positions(after.Rows), []int64{6, 0, 0, 0})
	for i, r := range after.Rows {
		if r.Epoch <= held.Rows[i].Epoch {
			t.Errorf("the epoch of partition %d has not grown", r.Number)
		}
	}
}

// TestNames checks that names of any characters work, up to 200 bytes.
func TestNames(t *testing.T) {
	t.Parallel()
	g := groupOn(t, testdb.Consumers(t), func(*pgxpool.Config) {})
	for _, name := range []string{`o'neil "x" \ $$ %s $1 -- é`, strings.Repeat("é", 100), "\n"} {
		p := g.params(`cat'egory "x" \`)
		p.Name, p.Instance = name, name
		a := g.join(p)
		_, held := g.balance(a)
		equal(t, name, g.beat(a, move(held.Rows[0], 3)).Moved, []int{0})
		equal(t, name, query[string](g, `SELECT name FROM message_store_consumers.consumers WHERE id = $1`), name)
		_, err := ledger.Release(t.Context(), g, a, moves(held.Rows, 3))
		if err != nil {
			t.Error(err)
		}
		p.Partitions = 5
		_, err = ledger.Join(t.Context(), g, p)
		wantCode(t, name, err, ledger.Partitions)
	}
	for what, change := range map[string]func(p *ledger.JoinParams){
		"201 bytes":                func(p *ledger.JoinParams) { p.Name = strings.Repeat("é", 100) + "x" },
		"no bytes":                 func(p *ledger.JoinParams) { p.Name = "" },
		"an instance of 201 bytes": func(p *ledger.JoinParams) { p.Instance = strings.Repeat("x", 201) },
		"no categories":            func(p *ledger.JoinParams) { p.Categories = []string{} },
		"no lease":                 func(p *ledger.JoinParams) { p.Lease = 0 },
		"0 < partitions":           func(p *ledger.JoinParams) { p.Partitions = -1 },
		"1,025 partitions":         func(p *ledger.JoinParams) { p.Partitions = 1025 },
	} {
		p := g.params("one")
		change(&p)
		_, err := ledger.Join(t.Context(), g, p)
		wantCode(t, what, err, "23514")
	}
}

// TestTickLooksForEachMessage checks that a tick makes no move to a message that the store does not
// have, also if it has a later one: a process may have read both, from two servers.
func TestTickLooksForEachMessage(t *testing.T) {
	t.Parallel()
	g := newGroup(t)
	m := g.join(g.params("one"))
	_, held := g.balance(m)
	position, anchor := g.write(10)
	there, lost := move(held.Rows[0], position), move(held.Rows[1], position-1)
	there.Anchor, lost.Anchor = anchor, ledger.Anchor{ID: uuid.New(), Time: anchor.Time}
	tick := g.beat(m, there, lost)
	equal(t, "moved", tick.Moved, []int{0})
	equal(t, "refused", tick.Refused, []int{1})
}
