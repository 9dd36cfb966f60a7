package mdb

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
)

// run sends groups of writes to the category, whose turn it has, until it passes the turn on.
func (g *groups) run(category Category, q *queue) {
	defer g.ended()
	passed := false
	defer func() {
		if !passed {
			g.exited(category, q)
		}
	}()
	for !passed {
		g.round(q)
		passed = g.passOn(category, q)
	}
}

// errGroupExits is the error of a group whose goroutine was ended by runtime.Goexit.
var errGroupExits = errors.New("a callback has ended the goroutine that sends a group, as t.FailNow does")

// exited is called after a function, such as a hook or a tracer of pgx, has ended the goroutine. Nobody else tells the writes of the group, which
// may have happened, nor those that wait. These go on by themselves: the next group may end like this one.
func (g *groups) exited(category Category, q *queue) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, m := range q.sent {
		select {
		case m.news <- news{attempted, &brokenError{sent: true, err: errGroupExits}}:
		default: // it has news already
		}
	}
	q.dismiss()
	g.passToOne(category, q)
}

// ended records the end of a goroutine.
func (g *groups) ended() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.active--
	if g.active == 0 && g.idle != nil {
		close(g.idle)
		g.idle = nil
	}
}

// round sends one group. The writes are chosen when there is a connection for them: until then,
// more may arrive, and some may give up.
func (g *groups) round(q *queue) {
	r := g.calls.runner.(*poolRunner)
	conn, err := g.acquire(r, q)
	if err == nil {
		defer conn.Release()
	}
	switch {
	case errors.Is(err, context.Canceled) || err == nil && r.first.proxy() != noProxy:
		g.dismiss(q)
	case err != nil:
		tellAll(g.choose(q), attempted, err)
	default:
		if members := g.choose(q); members != nil {
			g.send(r, conn.Conn(), members)
		}
	}
}

// passOn passes the turn on after a round, and reports whether it did: it does not if another group is to be sent.
func (g *groups) passOn(category Category, q *queue) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.passToOne(category, q)
}

// acquire returns a connection for a group. It gives up when nothing waits any more.
func (g *groups) acquire(r *poolRunner, q *queue) (*pgxpool.Conn, error) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	if !g.acquiring(q, cancel) {
		cancel()
	}
	defer g.acquiring(q, nil)
	return r.acquire(ctx)
}

// acquiring sets how to give up the wait for a connection, and reports whether writes wait.
func (g *groups) acquiring(q *queue, giveUp context.CancelFunc) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	q.giveUp = giveUp
	return len(q.waiting) > 0
}

// choose takes the next group out of the queue, or nothing if too few writes wait.
func (g *groups) choose(q *queue) []*member {
	g.mu.Lock()
	defer g.mu.Unlock()
	n := q.next(groupMessages) // 0 if all have left
	if n == 0 || g.takesTurn(q, n) {
		return nil
	}
	q.sent = q.pop(n)
	return q.sent
}

func (g *groups) dismiss(q *queue) {
	g.mu.Lock()
	defer g.mu.Unlock()
	q.dismiss()
}

// send sends the members in one transaction, and tells them the outcome. It runs until the
// outcome is known or the connection is lost, whatever becomes of their callers.
func (g *groups) send(r *poolRunner, conn *pgx.Conn, members []*member) {
	ctx, group, begun := g.calls.config.hooks.startGroup(context.Background(), members)
	a := &groupAttempt{members: members}
	err := r.runBatchOn(ctx, conn, nil,
		step{st: acquireLock, read: drain, args: []any{string(members[0].stream)}},
		step{st: g.statement(), read: a.read, args: a.arguments()})
	g.calls.config.hooks.endGroup(ctx, group, begun, err)
	switch class := classify(err); {
	case err == nil:
		g.rests.succeeded(members)
		g.tell(a.results)
	case class.lost():
		a.lose(err)
		g.tell(a.results)
	case class.retryWrite() == byTime: // the server cannot be reached, or is read-only
		tellAll(members, attempted, err)
	case class == classSetup:
		g.rests.refused(allStreams)
		tellAll(members, undone, nil)
	case conn.IsClosed() || !refusesOne(class) || r.mode == pgx.QueryExecModeSimpleProtocol: // which has no pipeline
		tellAll(members, undone, nil)
	default:
		g.sendInSavepoints(ctx, r, conn, members)
	}
}

func tellAll(members []*member, kind newsKind, err error) {
	for _, m := range members {
		m.tell(kind, err)
	}
}

func (g *groups) statement() *statement {
	if g.calls.config.direct {
		return groupWriteDirect
	}
	return groupWriteCalls
}

// refusesOne reports whether an error of the class may be that of a single write of a group.
func refusesOne(c class) bool {
	switch c {
	case classRefused, classArgument, classDuplicateID, classWrongVersion, classInternal:
		return true
	}
	return false
}

// tell tells the members what the attempt has come to, and subscriptions which streams were
// written to.
func (g *groups) tell(results []memberResult) {
	rung := make(map[StreamName]bool)
	for _, r := range results {
		if r.kind == attempted && r.err == nil && !rung[r.stream] {
			rung[r.stream] = true
			g.calls.wrote(r.stream)
		}
	}
	for _, r := range results {
		r.tell(r.kind, r.err)
	}
}

// A memberResult is the news of a member.
type memberResult struct {
	*member
	news
}

// A groupAttempt is one execution of the statement of a group.
type groupAttempt struct {
	members []*member
	results []memberResult // in the order of the members
}

// arguments returns the arguments of groupWriteDirect and groupWriteCalls.
func (a *groupAttempt) arguments() []any {
	n, messages := len(a.members), 0
	last := make(map[StreamName]int, n)       // the number of the last write to a stream
	expecting := make(map[StreamName]bool, n) // whether a write to a stream expects a version
	for _, m := range a.members {
		messages += len(m.ids)
		if m.expected != nil {
			expecting[m.stream] = true
		}
	}
	streams, expected := make([]string, n), make([]*int64, n)
	sizes, previous := make([]int64, n), make([]int64, n)
	numbers, places := make([]int64, 0, messages), make([]int64, 0, messages)
	ids, types := make([]string, 0, messages), make([]string, 0, messages)
	data, metadata := make(payloads, 0, messages), make(payloads, 0, messages)
	for i, m := range a.members {
		streams[i], expected[i], sizes[i] = string(m.stream), m.expected, int64(len(m.ids))
		if previous[i] = int64(last[m.stream]); previous[i] == 0 && !expecting[m.stream] {
			previous[i] = -1
		}
		last[m.stream] = i + 1
		for j := range m.ids {
			numbers, places = append(numbers, int64(i+1)), append(places, int64(j+1))
		}
		ids, types = append(ids, m.idTexts...), append(types, m.types...)
		data, metadata = append(data, m.data...), append(metadata, m.metadata...)
	}
	return []any{streams, expected, sizes, previous, numbers, places, ids, types, data, metadata}
}

// groupColumns is the number of columns of the statement of a group.
const groupColumns = 6

// read reads the rows: those of the members that fail, which have a number, and those of the
// messages of the others, in order.
func (a *groupAttempt) read(rows pgx.Rows) error {
	a.results = make([]memberResult, len(a.members))
	for i, m := range a.members {
		a.results[i] = memberResult{m, news{kind: attempted}}
	}
	var written []Written
	for rows.Next() {
		fields, values := rows.FieldDescriptions(), rows.RawValues()
		if len(fields) != groupColumns || len(values) != groupColumns {
			return fmt.Errorf("got rows with %d columns, want %d", len(fields), groupColumns)
		}
		if values[0] != nil {
			if err := a.readFailure(fields, values); err != nil {
				return err
			}
			continue
		}
		w, err := readWritten(fields[3:], values[3:])
		if err != nil {
			return err
		}
		written = append(written, w)
	}
	if rows.Err() != nil {
		return rows.Err()
	}
	return a.distribute(written)
}

// readFailure reads the row of a member that fails.
func (a *groupAttempt) readFailure(fields []pgconn.FieldDescription, values [][]byte) error {
	var number, version, fits int64
	for i, to := range []*int64{&number, &version, &fits} {
		if values[i] == nil { // the version of a stream that nothing was expected of
			continue
		}
		var err error
		if *to, err = integer(fields[i].Format, values[i]); err != nil {
			return err
		}
	}
	if number < 1 || number > int64(len(a.results)) {
		return errors.New("got a row for an unknown write")
	}
	r := &a.results[number-1]
	if fits == 1 {
		r.err = takenID()
	} else {
		r.err = r.wrongVersion(version)
	}
	return nil
}

// distribute gives the rows to the members that were written.
func (a *groupAttempt) distribute(written []Written) error {
	for i := range a.results {
		r := &a.results[i]
		if r.err != nil {
			continue
		}
		n := len(r.ids)
		if len(written) < n {
			return fmt.Errorf("got too few rows for a group of %d writes", len(a.members))
		}
		r.written, written = written[:n:n], written[n:]
		for j := range r.written {
			r.written[j].ID = r.ids[j]
		}
	}
	if len(written) > 0 {
		return fmt.Errorf("got %d rows too many for a group of %d writes", len(written), len(a.members))
	}
	return nil
}

// lose records that the outcome of the attempt is unknown because of err. Members that have
// failed were not written in any case.
func (a *groupAttempt) lose(err error) {
	failed := a.results
	a.results = make([]memberResult, len(a.members))
	for i, m := range a.members {
		a.results[i] = memberResult{m, news{attempted, err}}
		if len(failed) > i && failed[i].err != nil {
			a.results[i].news = news{kind: byItself}
		}
	}
}
