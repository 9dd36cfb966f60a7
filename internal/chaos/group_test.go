package chaos

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/messagedb-go/messagedb/internal/backoff"
	"github.com/messagedb-go/messagedb/mdb"
	mdbconsumer "github.com/messagedb-go/messagedb/mdb/consumer"
)

// newGroupWork returns work of consumers in four to eight processes each: one form without and one with transactions, in a soak three
// of all forms.
func newGroupWork(url string, seed uint64) *durableWork {
	w := newDurableWork(url, seed)
	w.forms, w.processes, w.partitions, w.streams, w.busy = []string{"Each", "EachTx"}, 4, 16, 200, 40
	if *sizeFlag == "soak" {
		w.forms = nil
		for _, i := range w.rng.Perm(len(forms))[:3] {
			w.forms = append(w.forms, forms[i])
		}
	}
	return w
}

// mostProcesses is the greatest number of processes of a group.
const mostProcesses = 8

// join starts a further process of a consumer.
func (w *durableWork) join(h *durableHistory) error {
	w.running[h] = append(w.running[h], nil)
	return w.launch(h, len(w.running[h])-1)
}

// leave ends a process of a consumer, as a deployment does. The one with the number 0 stays.
func (w *durableWork) leave(ctx context.Context, h *durableHistory) error {
	i := 1 + w.rng.IntN(len(w.running[h])-1)
	p := w.running[h][i]
	w.running[h] = slices.Delete(w.running[h], i, i+1)
	return p.end(ctx)
}

// replace starts a second process with the instance of the one with the number 0, which then ends.
func (w *durableWork) replace(ctx context.Context, h *durableHistory) error {
	older := w.running[h][0]
	if err := w.untilJoined(ctx, older); err != nil {
		return err
	}
	if err := w.launch(h, 0); err != nil {
		return err
	}
	newer := w.running[h][0]
	select {
	case err := <-newer.ended:
		newer.ended <- err
		return fmt.Errorf("process %d of %s, which was to replace process %d, has ended: %w", newer.task.Process, h.consumer, older.task.Process, err)
	case err := <-older.ended:
		if err == nil || !strings.Contains(err.Error(), mdbconsumer.ErrReplaced.Error()) {
			return fmt.Errorf("process %d of %s ended with %w, want that it was replaced", older.task.Process, h.consumer, err)
		}
		return nil
	case <-ctx.Done():
		return fmt.Errorf("%w: process %d of %s was replaced and does not end", context.Cause(ctx), older.task.Process, h.consumer)
	}
}

// untilJoined waits until a process with an instance has joined.
func (w *durableWork) untilJoined(ctx context.Context, p *durableProcess) error {
	return w.until(ctx, `SELECT EXISTS (SELECT FROM message_store_consumers.members WHERE instance = $1 AND info ~ ('process ' || $2 || '\M'))`,
		p.task.Instance, p.proc.pid())
}

// freeze stops a process for a time, during which others work.
func (w *durableWork) freeze(ctx context.Context, h *durableHistory, p *durableProcess, length time.Duration) error {
	if err := w.untilHandled(ctx, p, 1); err != nil {
		return err
	}
	if err := p.proc.signal(syscall.SIGSTOP); err != nil {
		return err
	}
	for !p.proc.stopped() {
		_ = backoff.Sleep(ctx, time.Millisecond)
	}
	f := freeze{from: time.Now()}
	for time.Since(f.from) < length && ctx.Err() == nil {
		if err := w.sample(ctx); err != nil {
			break
		}
		_ = backoff.Sleep(ctx, min(length-time.Since(f.from), 100*time.Millisecond))
	}
	f.to = time.Now()
	if h.freezes == nil {
		h.freezes = make(map[int][]freeze)
	}
	h.freezes[p.task.Process] = append(h.freezes[p.task.Process], f)
	return errors.Join(p.proc.signal(syscall.SIGCONT), w.sample(ctx))
}

// balanced waits until the running processes of each consumer have all its partitions, as equally as possible.
func (w *durableWork) balanced(ctx context.Context) error {
	const shares = `
SELECT count(*), coalesce(min(s.partitions) - sum(s.n), -1)::bigint, coalesce(max(s.n) - min(s.n), 0) FROM (
	SELECT count(c.partition) AS n, k.partitions FROM message_store_consumers.members AS m
	JOIN message_store_consumers.consumers AS k ON k.id = m.consumer
	LEFT JOIN message_store_consumers.checkpoints AS c ON c.member = m.id WHERE k.name = $1 GROUP BY m.id, k.partitions) AS s`
	for _, h := range w.histories {
		for {
			var members, free, difference int
			err := w.pool.QueryRow(ctx, shares, h.consumer).Scan(&members, &free, &difference)
			if err == nil && members == len(w.running[h]) && free == 0 && difference <= 1 {
				break
			}
			if ctx.Err() != nil {
				return fmt.Errorf("%w: %d processes of %s are %d members, %d partitions are free, one has %d more than another",
					context.Cause(ctx), len(w.running[h]), h.consumer, members, free, difference)
			}
			tick()
		}
	}
	return nil
}

// poison begins the IDs of the streams that are poisoned.
const poison = "poisoned"

var (
	errPoisoned = errors.New("the stream is poisoned")
	errTrouble  = errors.New("it fails the first time")
	troubled    sync.Map // messages that have failed, by their IDs and the task's process
)

// trouble returns the error of messages of which one cannot be handled: of poisoned streams until they are healed, and of one message in
// twenty when this process first has it.
func (o *durableTask) trouble(direct *pgxpool.Pool, ms ...mdb.Message) error {
	if !o.Troubled {
		return nil
	}
	for i := range ms {
		m := &ms[i]
		var err error
		if strings.HasPrefix(m.Stream.ID(), poison) {
			err = o.poisoned(direct)
		}
		if _, known := troubled.LoadOrStore(fmt.Sprint(o.Process, m.ID), true); err == nil && !known && m.ID[0]%20 == 0 {
			err = errTrouble
		}
		if err != nil && (o.Form == "Batch" || o.Form == "BatchTx") {
			err = &mdbconsumer.BatchError{Index: i, Err: err}
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (o *durableTask) poisoned(direct *pgxpool.Pool) error {
	var healed bool
	err := direct.QueryRow(context.Background(), `SELECT EXISTS (SELECT FROM public.healed WHERE consumer = $1)`, o.Consumer).Scan(&healed)
	switch {
	case err != nil:
		return mdbconsumer.Transient(err)
	case !healed:
		return mdbconsumer.Permanent(errPoisoned)
	}
	return nil
}

// replay asks for a replay of everything that is parked.
func (w *durableWork) replay(ctx context.Context) error {
	for _, h := range w.histories {
		if _, err := mdbconsumer.Admin(w.pool).Replay(ctx, h.consumer); err != nil {
			return err
		}
	}
	return nil
}

// replayed heals the poisoned streams, and waits until nothing is parked any more.
func (w *durableWork) replayed(ctx context.Context) error {
	if w.poisoned == 0 {
		return nil
	}
	for _, h := range w.histories {
		if _, err := w.pool.Exec(ctx, `INSERT INTO public.healed VALUES ($1) ON CONFLICT DO NOTHING`, h.consumer); err != nil {
			return err
		}
	}
	for {
		if err := w.replay(ctx); err != nil { // also of those that fail once more
			return err
		}
		var n int
		err := w.pool.QueryRow(ctx, `SELECT count(*) FROM message_store_consumers.parked`).Scan(&n)
		if err != nil || n == 0 {
			return err
		}
		if err := errors.Join(w.sample(ctx), backoff.Sleep(ctx, 200*time.Millisecond)); err != nil {
			return fmt.Errorf("%d streams are parked: %w", n, err)
		}
	}
}
