package ledger

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// A mirror does on a server what a world does, and compares the answers and the rows.
type mirror struct {
	t        testing.TB
	conn     *pgx.Conn
	consumer int64
	acts     map[string]int
	differs  string // the first difference
}

func newMirror(t testing.TB, url string) *mirror {
	t.Helper()
	return &mirror{t: t, conn: session(t, url), acts: map[string]int{}}
}

func (m *mirror) exec(sql string, args ...any) {
	m.t.Helper()
	if _, err := m.conn.Exec(m.t.Context(), sql, args...); err != nil {
		m.t.Fatalf("%s: %v", sql, err)
	}
}

const emptyTables = `TRUNCATE message_store.messages, message_store_consumers.consumers, message_store_consumers.members,
	message_store_consumers.checkpoints, message_store_consumers.parked RESTART IDENTITY`

// begin starts another world.
func (m *mirror) begin() {
	m.exec(emptyTables)
	m.differs = ""
}

// now sets the clock and the timeline of the server.
func (m *mirror) now(w *world) {
	m.exec("SELECT set_config('walk.now', $1, false), set_config('walk.timeline', $2, false)", fmt.Sprint(w.now()), fmt.Sprint(w.timeline))
}

func (m *mirror) did(w *world, act string, got, want any) {
	m.acts[act]++
	if m.differs != "" {
		return
	}
	if g, w := fmt.Sprintf("%+v", got), fmt.Sprintf("%+v", want); g != w {
		m.differs = fmt.Sprintf("%s: the server returns %s, the model %s", act, g, w)
		return
	}
	if g, w := m.rows(), w.dump(); g != w {
		m.differs = fmt.Sprintf("after %s the server has\n%s\nand the model\n%s", act, g, w)
	}
}

const dumpRows = `
SELECT format('consumer %s %s %s', c.changes, c.layout, cardinality(c.categories)) FROM message_store_consumers.consumers AS c
UNION ALL (
	SELECT format('member %s %s %s %s %s %s %s', right(m.id::text, 12), coalesce(m.instance, '0'), cardinality(m.categories), micro(m.joined), micro(m.seen), coalesce(micro(m.woke), 0), m.layout)
	FROM message_store_consumers.members AS m ORDER BY m.id)
UNION ALL (
	SELECT format('checkpoint %s %s %s %s %s %s', c.category, c.partition, c.position, coalesce(right(c.member::text, 12), '000000000000'), c.epoch, coalesce(c.timeline, '0'))
	FROM message_store_consumers.checkpoints AS c ORDER BY c.category, c.partition)
UNION ALL (
	SELECT format('parked %s %s %s', p.stream, p.partition, p.position)
	FROM message_store_consumers.parked AS p ORDER BY p.stream, p.position)`

func (m *mirror) rows() string {
	m.t.Helper()
	rows, _ := m.conn.Query(m.t.Context(), strings.ReplaceAll(dumpRows, "micro(", "public.walk_micro("))
	lines, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		m.t.Fatal(err)
	}
	return strings.Join(lines, "\n")
}

// dump returns the rows in the form of dumpRows.
func (w *world) dump() string {
	var lines []string
	if w.known > 0 {
		lines = append(lines, fmt.Sprintf("consumer %d %d %d", w.changes, w.layout, w.known))
	}
	members := slices.Clone(w.members)
	slices.SortFunc(members, func(a, b memberRow) int { return a.id - b.id })
	for _, m := range members {
		lines = append(lines, fmt.Sprintf("member %012x %d %d %d %d %d %d", m.id, m.instance, m.categories, m.joined, m.seen, m.woke, m.layout))
	}
	for i, r := range w.rows[:w.known*partitions] {
		lines = append(lines, fmt.Sprintf("checkpoint c%d %d %d %012x %d %d", i/partitions, i%partitions, r.position, r.member, r.epoch, r.timeline))
	}
	parked := slices.Clone(w.parked)
	slices.SortFunc(parked, func(a, b parkedRow) int {
		return strings.Compare(fmt.Sprintf("%s %4d", a.stream(), a.position), fmt.Sprintf("%s %4d", b.stream(), b.position))
	})
	for _, p := range parked {
		lines = append(lines, fmt.Sprintf("parked %s %d %d", p.stream(), p.row%partitions, p.position))
	}
	return strings.Join(lines, "\n")
}

func (p parkedRow) stream() string { return fmt.Sprintf("c%d-%d", p.row/partitions, p.key) }

func instanceName(n int) string {
	if n == 0 {
		return ""
	}
	return fmt.Sprint(n)
}

func (m *mirror) member(id, instance int) Member {
	return Member{Consumer: m.consumer, ID: memberID(id), Instance: instanceName(instance)}
}

func (r *request) moves() (ms []Move) {
	for _, s := range r.steps {
		ms = append(ms, Move{Partition: rowPartition(s.row), Epoch: s.epoch, From: s.from, To: s.to})
	}
	return ms
}

func rowPartition(row int) Partition {
	return Partition{Category: fmt.Sprintf("c%d", row/partitions), Number: row % partitions}
}

func (m *mirror) join(w *world, id, instance, reads int, changes int64) {
	m.now(w)
	p := JoinParams{Name: "model", Member: memberID(id), Instance: instanceName(instance), Info: "i", Lease: time.Duration(lease) * time.Microsecond, Partitions: partitions}
	for c := range reads {
		p.Categories = append(p.Categories, fmt.Sprintf("c%d", c))
	}
	if w.start != fromEnd {
		p.Start = &w.start
	}
	j, err := Join(m.t.Context(), m.conn, p)
	if err != nil {
		m.t.Fatal(err)
	}
	m.consumer = j.Consumer
	m.did(w, "join", j.Changes, changes)
}

// resize does what resize in consumers.sql does after all members have stopped, but that the number of partitions remains.
func (m *mirror) resize(w *world) {
	m.exec(`UPDATE message_store_consumers.checkpoints AS c SET member = NULL, timeline = NULL, epoch = $1, position = (
		SELECT min(o.position) FROM message_store_consumers.checkpoints AS o WHERE o.consumer = c.consumer AND o.category = c.category)`, w.layout)
	m.exec("UPDATE message_store_consumers.consumers SET layout = $1, changes = changes + 1", w.layout)
	m.did(w, "resize", nil, nil)
}

func (m *mirror) balance(w *world, id int, layout int64, forgotten [rowCount]int64, b balanced) {
	m.now(w)
	member := m.member(id, 0)
	member.Partitions, member.Layout = partitions, layout
	var rows []Row
	for i, epoch := range forgotten {
		if epoch != 0 {
			rows = append(rows, Row{Partition: rowPartition(i), Epoch: epoch})
		}
	}
	got, _, err := Rebalance(m.t.Context(), m.conn, member, rows...)
	var pgErr *pgconn.PgError
	switch {
	case IsGone(err), errors.As(err, &pgErr) && pgErr.Code == NoConsumer:
		m.did(w, "balance, gone", balanced{gone: true}, b)
	case isCode(err, Partitions):
		m.did(w, "balance, resized", balanced{resized: true}, b)
	case err != nil:
		m.t.Fatal(err)
	default:
		if len(got.Renewed) > 0 {
			m.acts["renewal"]++
		}
		m.did(w, "balance", balanced{members: got.Members, quota: got.Quota, held: got.Held, claimed: got.Claimed}, b)
	}
}

func (m *mirror) tick(w *world, r *request) {
	m.now(w)
	got, err := Beat(m.t.Context(), m.conn, m.member(r.id, r.instance), "", r.moves())
	if err != nil {
		m.t.Fatal(err)
	}
	answer := ticked{alive: got.Alive, replaced: got.Replaced, suspects: got.Suspects, changes: got.Changes, layout: got.Layout}
	if got.Alive {
		answer.timeline = w.timeline
		answer.moved = indexed(len(r.steps), got.Moved)
	}
	m.did(w, "tick", answer, r.answer)
}

// indexed returns which of n indexes are in the list.
func indexed(n int, list []int) (in []bool) {
	for i := range n {
		in = append(in, slices.Contains(list, i))
	}
	return in
}

func (m *mirror) move(w *world, r *request) {
	m.now(w)
	var b pgx.Batch
	QueueMove(&b, m.member(r.id, 0), r.moves()[0])
	m.fenced(w, "move", m.conn.SendBatch(m.t.Context(), &b).Close(), r.ok)
}

func (m *mirror) fenced(w *world, act string, err error, want bool) {
	m.t.Helper()
	if err != nil && !IsFenced(err) {
		m.t.Fatal(err)
	}
	if err != nil {
		m.acts[act+", fenced"]++
	}
	m.did(w, act, err == nil, want)
}

func (m *mirror) release(w *world, r *request, released []bool) {
	m.now(w)
	got, err := Release(m.t.Context(), m.conn, m.member(r.id, 0), r.moves())
	if err != nil {
		m.t.Fatal(err)
	}
	m.did(w, "release", indexed(len(r.steps), got), released)
}

func (m *mirror) leave(w *world, id int, r *request) {
	m.now(w)
	if err := Leave(m.t.Context(), m.conn, m.member(id, 0), r.moves()); err != nil {
		m.t.Fatal(err)
	}
	m.did(w, "leave", nil, nil)
}

func (m *mirror) park(w *world, r *request) {
	m.now(w)
	p := *r.park
	parked := Parked{Partition: rowPartition(p.row), Key: fmt.Sprint(p.key), Stream: p.stream(), Position: p.position, GlobalPosition: p.position, Attempts: 1}
	m.exec("BEGIN")
	err := Park(m.t.Context(), m.conn, m.member(r.id, 0), r.steps[0].epoch, parked, "")
	if err == nil && w.transactional {
		var b pgx.Batch
		QueueMove(&b, m.member(r.id, 0), r.moves()[0])
		err = m.conn.SendBatch(m.t.Context(), &b).Close()
	}
	m.exec("COMMIT") // which is a rollback after an error
	m.fenced(w, "park", err, r.ok)
}

// write writes the last message of the model.
func (m *mirror) write(w *world) {
	message := w.log[len(w.log)-1]
	m.exec("INSERT INTO message_store.messages (global_position, position, stream_name, type) VALUES ($1, $1, $2, 'Happened')",
		w.head(), fmt.Sprintf("c%d-%d", message.category, message.key))
}

// restore gives the server the rows of a standby that was promoted.
func (m *mirror) restore(w *world) {
	m.acts["failover"]++
	m.exec(emptyTables)
	for i, message := range w.log {
		m.exec("INSERT INTO message_store.messages (global_position, position, stream_name, type) VALUES ($1, $1, $2, 'Happened')",
			i+1, fmt.Sprintf("c%d-%d", message.category, message.key))
	}
	if w.known == 0 {
		return
	}
	names := []string{"c0", "c1"}
	m.consumer = 1
	m.exec("INSERT INTO message_store_consumers.consumers (name, categories, partitions, changes, layout) VALUES ('model', $1, $2, $3, $4)", names[:w.known], partitions, w.changes, w.layout)
	for _, r := range w.members {
		m.exec(`INSERT INTO message_store_consumers.members (id, consumer, instance, categories, info, layout, lease, joined, seen, woke)
			VALUES ($1, 1, nullif($2, ''), $3, 'i', $8, $4::bigint * interval '1 microsecond', public.walk_time($5), public.walk_time($6), public.walk_time(nullif($7::bigint, 0)))`,
			memberID(r.id).String(), instanceName(r.instance), names[:r.categories], lease, r.joined, r.seen, r.woke, r.layout)
	}
	for i, r := range w.rows[:w.known*partitions] {
		m.exec(`INSERT INTO message_store_consumers.checkpoints (consumer, category, partition, position, member, epoch, timeline)
			VALUES (1, $1, $2, $3, nullif($4::uuid, $5), $6, nullif($7, '0'))`,
			names[i/partitions], i%partitions, r.position, memberID(r.member).String(), memberID(0).String(), r.epoch, fmt.Sprint(r.timeline))
	}
	for _, p := range w.parked {
		m.exec(`INSERT INTO message_store_consumers.parked (consumer, category, partition, key, stream, position, global_position, attempts)
			VALUES (1, $1, $2, $3, $4, $5, $5, 1)`, names[p.row/partitions], p.row%partitions, fmt.Sprint(p.key), p.stream(), p.position)
	}
	m.did(w, "failover", nil, nil)
}
