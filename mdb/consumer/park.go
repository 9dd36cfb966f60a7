package consumer

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/messagedb-go/messagedb/internal/ledger"
	"github.com/messagedb-go/messagedb/mdb"
)

// A Parked is a stream that is parked because a message could not be handled.
type Parked struct {
	// Consumer is the consumer's name, and Partition the number of the message's partition.
	Consumer  string
	Partition int
	// Stream, Position and GlobalPosition identify the message. Unless the consumer has the option
	// [ParkAlone], the messages after it that have the same cardinal ID wait for it.
	Stream                   mdb.StreamName
	Position, GlobalPosition int64
	// Attempts is the number of calls of the handler that have failed.
	Attempts int
	// Error is the type of the handler's error, or with [WithErrorText] its text.
	Error string
}

// OnPark sets a function that is called in the transaction that parks a stream, for example to
// write an alert. What f writes with tx is committed together with the parking, once for each
// message that is parked. The rules for tx are those of [EachTx]; [mdb.Store.WithTx] writes messages
// in it. f is called for the message that could not be handled, not for those that wait for it, nor
// after a failed replay.
//
// If f returns an error or panics, it is called again, in another transaction. After three errors,
// the stream is parked without f, and the type of the error is logged.
func OnPark(f func(ctx context.Context, tx pgx.Tx, p Parked) error) Option {
	return Option{name: "OnPark", apply: func(c *config) {
		if f == nil {
			c.fault("OnPark", "nil", "a function")
		}
		c.onPark = f
	}}
}

// ParkAlone parks single messages instead of streams: the messages after them are handled, even those
// of the same stream. Use it if the handler does not depend on the order of messages.
//
// Each of these messages is replayed when it is due, whether others of its stream fail or not. When 100 messages
// with the same cardinal ID are parked, the next one that fails parks its stream as without ParkAlone: the messages with
// this cardinal ID wait until it is replayed. A message that is deleted is no longer parked when it would be replayed.
func ParkAlone() Option {
	return Option{name: "ParkAlone", apply: func(c *config) { c.parkAlone = true }}
}

const (
	onParkAttempts = 3
	mostAlone      = 100 // messages of a key that are parked alone
)

// park parks a message's stream, and makes the move unless it is nil.
func (r *running) park(ctx context.Context, d *delivery, f Failure, move *ledger.Move) error {
	return r.readOnly(ctx, r.tryPark(ctx, d, f, move))
}

func (r *running) tryPark(ctx context.Context, d *delivery, f Failure, move *ledger.Move) error {
	c := r.config
	p := parking{
		Parked: ledger.Parked{
			Partition: d.partition, Key: d.key, Stream: string(d.message.Stream),
			Position: d.message.Position, GlobalPosition: d.message.GlobalPosition, Attempts: f.Attempt,
		},
		member: *r.member.self.Load(), epoch: d.epoch, move: move,
	}
	if f.alone {
		p.Upto = &d.message.Position
	}
	if f.Attempt == 0 { // it waits for its key
		return r.recordParking(ctx, p)
	}
	if !f.keyParked {
		n, err := ledger.CountParked(ctx, r.config.home.Pool(), p.member, c.maxParked)
		if err != nil {
			return err
		}
		if n >= c.maxParked {
			return errParkedFull
		}
	}
	p.text, p.wait = r.errorText(f.Err), schedule[0]
	for attempt := 1; c.onPark != nil; attempt++ {
		err := r.recordInTx(ctx, p, c.onPark)
		var failed *onParkError
		if !errors.As(err, &failed) {
			return err
		}
		if attempt == onParkAttempts {
			r.link.Logger.Warn("the function of OnPark failed: a consumer parks a stream without it",
				r.member.attrs("stream", p.Stream, "position", p.Position, "global_position", p.GlobalPosition, "error", typeOf(failed.err))...)
			break
		}
		if err := patient.Wait(ctx, attempt); err != nil {
			return err
		}
	}
	return r.recordParking(ctx, p)
}

// A parking is what is recorded of a message that is parked.
type parking struct {
	ledger.Parked

	member ledger.Member
	epoch  int64
	text   string        // of the error
	wait   time.Duration // until it is due; 0: it is not
	move   *ledger.Move  // nil: none
}

func (p *parking) record(ctx context.Context, q ledger.Querier) (created bool, err error) {
	return ledger.ParkFor(ctx, q, p.member, p.epoch, p.Parked, p.text, p.wait)
}

func (r *running) recordParking(ctx context.Context, p parking) error {
	if p.move != nil {
		return r.recordInTx(ctx, p, nil)
	}
	_, err := p.record(ctx, r.config.home.Pool())
	return err
}

// errorText returns what is stored of an error.
func (r *running) errorText(err error) string {
	if r.config.errorText {
		return fmt.Sprint(err) // it survives an Error method that panics
	}
	return typeOf(err)
}

// An onParkError is that of the function of OnPark.
type onParkError struct{ err error }

func (e *onParkError) Error() string { return fmt.Sprintf("OnPark: %v", e.err) }

// recordInTx records it in a transaction in which the function of OnPark is called, if there is
// one and the stream was not parked already.
func (r *running) recordInTx(ctx context.Context, p parking, onPark func(context.Context, pgx.Tx, Parked) error) error {
	tx, err := beginTx(ctx, r.config.home.Pool(), pgx.ReadCommitted, defaultIdle)
	if err != nil {
		return err
	}
	defer tx.close(ctx)
	if p.move != nil { // first, because it locks the checkpoint exclusively
		var b pgx.Batch
		ledger.QueueMove(&b, p.member, *p.move)
		if err := tx.tx.SendBatch(ctx, &b).Close(); err != nil {
			return err
		}
	}
	created, err := p.record(ctx, tx.tx)
	if err != nil {
		return err
	}
	if created && onPark != nil {
		parked := Parked{
			Consumer: r.config.name, Partition: p.Number, Stream: mdb.StreamName(p.Stream),
			Position: p.Position, GlobalPosition: p.GlobalPosition, Attempts: p.Attempts, Error: p.text,
		}
		given := tx.given(r.config.home)
		err := tx.check(protect(func() error { return onPark(ctx, given, parked) }))
		if err != nil && ctx.Err() == nil && !errors.As(err, new(*lostError)) {
			return &onParkError{err}
		} else if err != nil {
			return err
		}
	}
	tx.over.Store(true)
	tag, err := tx.conn.Exec(ctx, "commit")
	return commitError(tx.conn.Conn(), tag, err)
}
