package chaos

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	mdbconsumer "github.com/messagedb-go/messagedb/mdb/consumer"
)

// operatorTables is the record of what operators do. Triggers note the epochs, which depend on locks, in the same transaction.
const operatorTables = `
CREATE TABLE public.resizes (consumer text NOT NULL, epoch bigint NOT NULL, partitions integer NOT NULL);
CREATE TABLE public.seeks (consumer text NOT NULL, epoch bigint, position bigint NOT NULL, lowest bigint NOT NULL);
CREATE TABLE public.skips (consumer text NOT NULL, stream text NOT NULL, position bigint NOT NULL);
CREATE FUNCTION public.greatest_epoch(consumer text) RETURNS bigint LANGUAGE sql AS $$
	SELECT coalesce(max(c.epoch), 0) FROM message_store_consumers.checkpoints AS c JOIN message_store_consumers.consumers AS k ON k.id = c.consumer WHERE k.name = $1
$$;
CREATE FUNCTION public.note_resize() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
	INSERT INTO public.resizes VALUES (NEW.name, public.greatest_epoch(NEW.name), NEW.partitions);
	RETURN NULL;
END $$;
CREATE TRIGGER note_resize AFTER UPDATE OF partitions ON message_store_consumers.consumers
	FOR EACH ROW WHEN (NEW.partitions <> OLD.partitions) EXECUTE FUNCTION public.note_resize();
CREATE FUNCTION public.note_seek() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
	UPDATE public.seeks AS s SET epoch = public.greatest_epoch(s.consumer) WHERE s.consumer = NEW.consumer AND s.epoch IS NULL;
	RETURN NULL;
END $$;
CREATE CONSTRAINT TRIGGER note_seek AFTER INSERT ON public.seeks DEFERRABLE INITIALLY DEFERRED
	FOR EACH ROW EXECUTE FUNCTION public.note_seek()`

// The limits of the number of partitions: each of the processes has at least one.
const fewestPartitions, mostPartitions = mostProcesses, 48

// nextPartitions returns another number of partitions: a multiple as often as not, a greater or a smaller one.
func (w *durableWork) nextPartitions(now int) int {
	if w.rng.IntN(2) == 0 && 2*now <= mostPartitions {
		return now * (2 + w.rng.IntN(mostPartitions/now-1))
	}
	for {
		if n := fewestPartitions + w.rng.IntN(mostPartitions-fewestPartitions+1); n%now != 0 {
			return n
		}
	}
}

var errGivenUp = errors.New("the operator gave up")

// resize begins to change the number of a consumer's partitions. Sometimes the operator gives up after a time: errGivenUp.
func (w *durableWork) resize(ctx context.Context, h *durableHistory) <-chan error {
	ended := make(chan error, 1)
	var now int
	if err := w.pool.QueryRow(ctx, `SELECT partitions FROM message_store_consumers.consumers WHERE name = $1`, h.consumer).Scan(&now); err != nil {
		ended <- err
		return ended
	}
	to := w.nextPartitions(now)
	patience := time.Hour
	if w.rng.IntN(4) == 0 {
		patience = time.Duration(w.rng.Int64N(int64(time.Second)))
	}
	go func() {
		limited, cancel := context.WithTimeout(ctx, patience)
		defer cancel()
		err := mdbconsumer.Admin(w.pool).Resize(limited, h.consumer, to)
		switch {
		case err != nil && limited.Err() != nil && ctx.Err() == nil:
			err = errGivenUp
		case err != nil:
			err = fmt.Errorf("from %d to %d partitions: %w", now, to, err)
		}
		ended <- err
	}()
	return ended
}

// paused pauses a consumer, lets a process be killed and another one leave or join meanwhile, and resumes it.
func (w *durableWork) paused(ctx context.Context, h *durableHistory) error {
	admin := mdbconsumer.Admin(w.pool)
	if err := admin.Pause(ctx, h.consumer, "a test"); err != nil {
		return err
	}
	// The second tick follows what the member does with the answer to the first one.
	if err := errors.Join(w.ticked(ctx, h), w.ticked(ctx, h)); err != nil {
		return err
	}
	p := freeze{from: time.Now()}
	other := func() error { return w.join(h) }
	if len(w.running[h]) == mostProcesses {
		other = func() error { return w.leave(ctx, h) }
	}
	if err := errors.Join(w.kill(ctx, h, w.rng.IntN(len(w.running[h]))), other(), w.ticked(ctx, h), w.ticked(ctx, h), w.sample(ctx)); err != nil {
		return err
	}
	p.to = time.Now()
	h.pauses = append(h.pauses, p)
	if err := admin.Resume(ctx, h.consumer); err != nil {
		return err
	}
	return w.untilMore(ctx, w.running[h]...)
}

// ticked waits until each member of a consumer has sent a heartbeat, or is no member any more.
func (w *durableWork) ticked(ctx context.Context, h *durableHistory) error {
	var now time.Time
	if err := w.pool.QueryRow(ctx, `SELECT clock_timestamp()`).Scan(&now); err != nil {
		return err
	}
	return w.until(ctx, `SELECT NOT EXISTS (SELECT FROM message_store_consumers.members AS m
JOIN message_store_consumers.consumers AS k ON k.id = m.consumer WHERE k.name = $1 AND m.seen <= $2)`, h.consumer, now)
}

// seekBack moves a consumer to a position before some of the last messages, and deletes their effects, as for a rebuild.
func (w *durableWork) seekBack(ctx context.Context, h *durableHistory) error {
	return w.seek(ctx, h, func(last int64) int64 { return max(0, last-w.rng.Int64N(1000)) })
}

// seekToEnd moves a consumer past all messages that there are.
func (w *durableWork) seekToEnd(ctx context.Context, h *durableHistory) error {
	return w.seek(ctx, h, func(last int64) int64 { return last })
}

func (w *durableWork) seek(ctx context.Context, h *durableHistory, where func(last int64) int64) error {
	var last int64
	if err := w.pool.QueryRow(ctx, `SELECT coalesce(max(global_position), 0) FROM message_store.messages`).Scan(&last); err != nil {
		return err
	}
	to := where(last)
	changed, err := mdbconsumer.Admin(w.pool).Seek(ctx, h.consumer, mdbconsumer.ToPosition(to), mdbconsumer.Within(func(ctx context.Context, tx pgx.Tx) error {
		return forgetEffects(ctx, tx, h.consumer, to)
	}))
	if err != nil {
		return err
	}
	h.looked = min(h.looked, to)
	if len(changed) != 1 || changed[0].Position != to {
		return fmt.Errorf("a seek to %d has changed %+v", to, changed)
	}
	_, err = w.pool.Exec(ctx, `UPDATE public.seeks AS s SET lowest = $2
WHERE s.consumer = $1 AND s.epoch = (SELECT max(o.epoch) FROM public.seeks AS o WHERE o.consumer = $1)`, h.consumer, changed[0].Lowest)
	return errors.Join(err, w.sample(ctx))
}

// forgetEffects deletes effects after a position, and notes the seek. It waits for transactions that have written effects,
// because it would not see these.
func forgetEffects(ctx context.Context, tx pgx.Tx, consumer string, position int64) error {
	var b pgx.Batch
	b.Queue(`LOCK TABLE public.effects IN SHARE ROW EXCLUSIVE MODE`)
	b.Queue(`DELETE FROM public.once AS o USING message_store.messages AS m WHERE o.consumer = $1 AND m.id = o.message AND m.global_position > $2`, consumer, position)
	b.Queue(`DELETE FROM public.effects WHERE consumer = $1 AND global_position > $2`, consumer, position)
	b.Queue(`INSERT INTO public.seeks (consumer, position, lowest) SELECT $1, $2::bigint, min(c.position) FROM message_store_consumers.checkpoints AS c
JOIN message_store_consumers.consumers AS k ON k.id = c.consumer WHERE k.name = $1`, consumer, position)
	return tx.SendBatch(ctx, &b).Close()
}

// skip skips a message that is parked, when there is one.
func (w *durableWork) skip(ctx context.Context, h *durableHistory) error {
	admin := mdbconsumer.Admin(w.pool)
	for ; ; tick() {
		parked, err := admin.Parked(ctx, h.consumer)
		if err != nil {
			return err
		}
		for i := range parked {
			p := &parked[i]
			if p.Attempts == 0 {
				continue
			}
			switch err := admin.Skip(ctx, h.consumer, p.Stream, mdbconsumer.AtPosition(p.Position)); {
			case err == nil:
				return w.skipped(ctx, h, place{p.Stream, p.Position})
			case !errors.As(err, new(*mdbconsumer.ConflictError)): // otherwise it was replayed
				return err
			}
		}
	}
}

// skipped notes that a message was skipped.
func (w *durableWork) skipped(ctx context.Context, h *durableHistory, p place) error {
	var seeks int
	err := w.pool.QueryRow(ctx, `SELECT count(*) FROM public.seeks WHERE consumer = $1`, h.consumer).Scan(&seeks)
	if h.skips == nil {
		h.skips = make(map[place]int)
	}
	h.skips[p] = seeks
	if err == nil {
		_, err = w.pool.Exec(ctx, `INSERT INTO public.skips VALUES ($1, $2, $3)`, h.consumer, p.Stream, p.Position)
	}
	return err
}
