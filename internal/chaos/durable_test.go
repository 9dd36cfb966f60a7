package chaos

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/messagedb-go/messagedb/internal/backoff"
	"github.com/messagedb-go/messagedb/mdb"
	mdbconsumer "github.com/messagedb-go/messagedb/mdb/consumer"
	"github.com/messagedb-go/messagedb/mdb/poll"
)

// forms are the forms of handlers of durable consumers.
var forms = []string{"Each", "Batch", "EachTx", "BatchTx", "EachQueued"}

// exactlyOnce reports whether the effects of a form's handlers are there exactly once.
func exactlyOnce(form string) bool { return form != "Each" && form != "Batch" }

// effectTables is what handlers write to. There is an effect for each handled message, and a
// doubled one is no error. The other table makes it one, as a projection's key would.
const effectTables = `
CREATE TABLE public.effects (
	n bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, consumer text NOT NULL, process integer NOT NULL, message uuid NOT NULL,
	stream text NOT NULL, global_position bigint NOT NULL, partition integer NOT NULL, epoch bigint NOT NULL,
	begun timestamptz NOT NULL, written timestamptz NOT NULL DEFAULT clock_timestamp(), replayed boolean NOT NULL);
CREATE INDEX ON public.effects (consumer, message);
CREATE INDEX ON public.effects (consumer, global_position);
CREATE INDEX ON public.effects (process);
CREATE TABLE public.once (consumer text NOT NULL, message uuid NOT NULL, PRIMARY KEY (consumer, message));
CREATE TABLE public.healed (consumer text PRIMARY KEY)`

// Handlers of EachQueued know neither their partition and epoch nor whether a message is replayed, so the server says it.
const (
	insertEffect = `INSERT INTO public.effects (consumer, process, message, stream, global_position, begun, partition, epoch, replayed) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)`
	insertQueued = `INSERT INTO public.effects (consumer, process, message, stream, global_position, begun, partition, epoch, replayed)
SELECT $1, $2, $3, $4, $5, $6, c.partition, c.epoch, EXISTS (SELECT FROM message_store_consumers.parked AS p WHERE p.consumer = k.id AND p.key = $8)
FROM message_store_consumers.checkpoints AS c
JOIN message_store_consumers.consumers AS k ON k.id = c.consumer WHERE k.name = $1 AND c.partition = mod($7::bigint, k.partitions)`
	insertOnce = `INSERT INTO public.once (consumer, message) VALUES ($1, $2)`
)

// A durableTask is what a process of a durable consumer does.
type durableTask struct {
	Direct, Through string // URLs: for effects outside of transactions, and of the consumer
	Form, Consumer  string
	Category        mdb.Category
	Process         int
	Instance        string // empty: none
	Lease           time.Duration
	Partitions      int // 0: those that the consumer has
	Workers         int
	Unique          bool // whether a doubled effect is an error
	Notify          bool
	Bug             string // of the handler
	Pooled          bool   // the consumer connects through PgBouncer
	Conns           int32  // of its pool
	Troubled        bool   // messages fail, see trouble
	Slow            bool   // some calls take longer, see dawdle
}

// handler returns the handler of the task. Effects outside of transactions go through a pool of
// their own, so that faults do not hit it.
func (o *durableTask) handler(effects *pgxpool.Pool) mdbconsumer.Handler {
	broken := brokenHandlers[o.Bug]
	outside := func(ctx context.Context, ms ...mdb.Message) error {
		begun := time.Now()
		if err := o.trouble(effects, ms...); err != nil {
			return err
		}
		var b pgx.Batch
		if broken != nil {
			ms = broken(ms)
		}
		for _, m := range ms {
			o.queue(&b, begun, mdbconsumer.FromContext(ctx), m)
		}
		if b.Len() == 0 {
			return nil
		}
		if err := o.dawdle(ctx, ms...); err != nil {
			return err
		}
		conn, err := effects.Acquire(ctx)
		if err != nil {
			return mdbconsumer.Transient(err)
		}
		defer conn.Release()
		// The server would go on if ctx ended, and the effect could come after those of later calls.
		if err := conn.SendBatch(context.WithoutCancel(ctx), &b).Close(); err != nil {
			return mdbconsumer.Transient(err)
		}
		return nil
	}
	inside := func(ctx context.Context, tx pgx.Tx, ms ...mdb.Message) error {
		begun := time.Now()
		if err := o.trouble(effects, ms...); err != nil {
			return err
		}
		var b pgx.Batch
		for _, m := range ms {
			o.queue(&b, begun, mdbconsumer.FromContext(ctx), m)
			if o.Unique {
				b.Queue(insertOnce, o.Consumer, m.ID)
			}
		}
		if err := o.dawdle(ctx, ms...); err != nil {
			return err
		}
		return tx.SendBatch(ctx, &b).Close()
	}
	switch o.Form {
	case "Each":
		return mdbconsumer.Each(func(ctx context.Context, m mdb.Message) error { return outside(ctx, m) })
	case "Batch":
		return mdbconsumer.Batch(func(ctx context.Context, ms []mdb.Message) error { return outside(ctx, ms...) })
	case "EachTx":
		return mdbconsumer.EachTx(func(ctx context.Context, tx pgx.Tx, m mdb.Message) error { return inside(ctx, tx, m) })
	case "BatchTx":
		return mdbconsumer.BatchTx(func(ctx context.Context, tx pgx.Tx, ms []mdb.Message) error { return inside(ctx, tx, ms...) })
	}
	return mdbconsumer.EachQueued(func(b *pgx.Batch, m mdb.Message) error {
		begun := time.Now()
		if err := o.trouble(effects, m); err != nil {
			return err
		}
		b.Queue(insertQueued, o.Consumer, o.Process, m.ID, m.Stream, m.GlobalPosition, begun, hashOf(m.Stream), m.Stream.CardinalID())
		if o.Unique {
			b.Queue(insertOnce, o.Consumer, m.ID)
		}
		return nil
	})
}

func (o *durableTask) queue(b *pgx.Batch, begun time.Time, d mdbconsumer.Delivery, m mdb.Message) {
	b.Queue(insertEffect, o.Consumer, o.Process, m.ID, m.Stream, m.GlobalPosition, begun, d.Partition, d.Epoch, d.Replayed)
}

// dawdle lets the handler take up to a quarter of a second for one message in a hundred.
func (o *durableTask) dawdle(ctx context.Context, ms ...mdb.Message) error {
	for i := range ms {
		if id := ms[i].ID; o.Slow && int(id[1])<<8|int(id[2]) < 1<<16/100 {
			if err := backoff.Sleep(ctx, time.Duration(id[3])*time.Millisecond); err != nil {
				return mdbconsumer.Transient(err)
			}
		}
	}
	return nil
}

// partitionOf returns the number of a stream's partition.
func partitionOf(stream mdb.StreamName, partitions int) int {
	return int(hashOf(stream) % int64(partitions))
}

func hashOf(stream mdb.StreamName) int64 {
	hash := mdb.Hash64(stream.CardinalID())
	return max(hash, -hash)
}

// run runs the consumer until ctx ends, and returns nil then.
func (o *durableTask) run(ctx context.Context) error {
	effects, err := pgxpool.New(ctx, o.Direct)
	if err != nil {
		return err
	}
	defer effects.Close()
	cfg, err := pgxpool.ParseConfig(o.Through)
	if err != nil {
		return err
	}
	if o.Pooled {
		mdb.Configure(cfg, mdb.BehindPooler())
	} else {
		configure(cfg)
	}
	cfg.MaxConns = o.Conns
	pool, err := pgxpool.NewWithConfig(ctx, cfg)
	if err != nil {
		return err
	}
	defer pool.Close()
	opts := []mdb.StoreOption{mdb.WithPolling(poll.Backoff(time.Millisecond, 20*time.Millisecond, 2))}
	if o.Notify {
		opts = []mdb.StoreOption{mdb.WithNotify()}
	}
	store, err := mdb.New(pool, opts...)
	if err != nil {
		return err
	}
	options := []mdbconsumer.Option{mdbconsumer.WithLease(o.Lease), mdbconsumer.WithWorkers(o.Workers)}
	if o.Partitions > 0 {
		options = append(options, mdbconsumer.WithPartitions(o.Partitions))
	}
	if o.Instance != "" {
		options = append(options, mdbconsumer.WithInstance(o.Instance))
	}
	if o.Form == "EachTx" || o.Form == "BatchTx" {
		options = append(options, mdbconsumer.WithIdleTimeout(time.Second)) // a process that is stopped may hold locks for so long
	}
	c, err := mdbconsumer.New(store, o.Consumer, o.Category, o.handler(effects), options...)
	if err != nil {
		return err
	}
	if err := c.Run(ctx); ctx.Err() == nil || !errors.Is(err, context.Cause(ctx)) {
		return fmt.Errorf("process %d of %s: %w", o.Process, o.Consumer, err)
	}
	return nil
}

// durableChild runs a task in a child process until its input ends.
func durableChild(o *durableTask) int {
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		cancel()
	}()
	if err := o.run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 2
	}
	return 0
}

// A durableProcess is a running task: in a child process, or in this one.
type durableProcess struct {
	task  durableTask
	stop  func()       // ends it as a deployment does
	kill  func() error // nil: it is in this process
	proc  process      // empty: the same
	ended chan error   // receives its error
}

// start starts the task in this process.
func (o durableTask) start() *durableProcess {
	ctx, cancel := context.WithCancel(context.Background())
	p := &durableProcess{task: o, stop: cancel, ended: make(chan error, 1)}
	go func() { p.ended <- o.run(ctx) }()
	return p
}

// spawn starts the task in a child process.
func (o durableTask) spawn() (*durableProcess, error) {
	text, err := json.Marshal(childTask{Durable: &o})
	if err != nil {
		return nil, err
	}
	program, err := os.Executable()
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(program)
	cmd.Env = append(os.Environ(), childVariable+"="+string(text))
	stderr := new(strings.Builder)
	cmd.Stderr = stderr
	input, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	p := &durableProcess{
		task: o, stop: func() { _ = input.Close() }, kill: cmd.Process.Kill,
		proc: process(fmt.Sprint("/proc/", cmd.Process.Pid)), ended: make(chan error, 1),
	}
	go func() {
		err := cmd.Wait()
		if err != nil {
			err = fmt.Errorf("process %d of %s: %w: %s", o.Process, o.Consumer, err, stderr)
		}
		p.ended <- err
	}()
	return p, nil
}
