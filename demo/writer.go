package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/google/uuid"

	"github.com/messagedb-go/messagedb/mdb"
)

// A writer moves money between random accounts. It keeps what it has read of them.
type writer struct {
	*bank
	known [accounts]ledger
}

// A ledger is what a writer knows of an account.
type ledger struct{ balance, version int64 }

// pace is how long a writer waits between two transfers, on average.
const pace = 100 * time.Millisecond

// moveMoney moves money until ctx ends.
func (b *bank) moveMoney(ctx context.Context) error {
	w := &writer{bank: b}
	for i := range w.known {
		w.known[i].version = mdb.NoStream
	}
	for ctx.Err() == nil {
		from := rand.IntN(accounts)
		to := (from + 1 + rand.IntN(accounts-1)) % accounts
		// A transfer that has begun is finished, so that its outcome is known.
		if err := w.transfer(context.WithoutCancel(ctx), from, to); err != nil {
			return err
		}
		pause(ctx, time.Duration(rand.Int64N(int64(2*pace))))
	}
	return nil
}

// transfer decides on what the accounts contain. It decides again when another writer
// was faster, and after a lost connection once it knows what became of the attempt.
func (w *writer) transfer(ctx context.Context, from, to int) error {
	begin := time.Now()
	outage := outage{}
	lost := make(map[uuid.UUID]uuid.UUID) // attempts whose answer was lost: withdrawal, deposit
	var written uuid.UUID                 // the one of them that the account contains
	for {
		id, err := w.catchUp(ctx, from, lost)
		if id != uuid.Nil {
			written = id
		}
		if err == nil {
			_, err = w.catchUp(ctx, to, nil)
		}
		switch {
		case err != nil:
			if err := outage.wait(ctx, err); err != nil {
				return err
			}
			continue
		case written != uuid.Nil:
			w.doubts.written.Add(1)
			w.doubts.notWritten.Add(int64(len(lost) - 1))
			w.done(begin, written, lost[written])
			return nil
		case w.known[from].balance == 0: // there is nothing to move
			w.doubts.notWritten.Add(int64(len(lost)))
			return nil
		}

		withdrawn, deposited := proposal(w.transfers, 1+rand.Int64N(w.known[from].balance))
		err = w.write(ctx, from, to, withdrawn, deposited)
		var faster *mdb.WrongVersionError
		var unknown *mdb.UnknownOutcomeError
		switch {
		case err == nil:
			w.doubts.notWritten.Add(int64(len(lost)))
			w.done(begin, withdrawn.ID, deposited.ID)
			return nil
		case errors.As(err, &faster):
			w.conflicts.record(0)
			continue
		case errors.As(err, &unknown):
			lost[withdrawn.ID] = deposited.ID
		}
		if err := outage.wait(ctx, err); err != nil {
			return err
		}
	}
}

func (w *writer) done(begin time.Time, ids ...uuid.UUID) {
	w.transferred.record(time.Since(begin))
	w.acknowledge(ids...)
}

func proposal(transfers mdb.Category, amount int64) (withdrawn, deposited mdb.ProposedMessage) {
	origin := Origin{Transfer: transfers.Stream(uuid.NewString()), WrittenAt: time.Now().UnixMicro()}
	withdrawn, deposited = mdb.NewMessage("Withdrawn", Moved{amount}), mdb.NewMessage("Deposited", Moved{amount})
	withdrawn.Metadata, deposited.Metadata = origin, origin
	return withdrawn, deposited
}

// write writes both messages or none, unless an account has changed since it was read.
func (w *writer) write(ctx context.Context, from, to int, withdrawn, deposited mdb.ProposedMessage) error {
	return w.store.Atomically(ctx, []mdb.Category{w.category}, func(tx *mdb.Tx) error {
		if _, err := tx.WriteMessage(ctx, w.account(from), withdrawn, mdb.ExpectVersion(w.known[from].version)); err != nil {
			return err
		}
		_, err := tx.WriteMessage(ctx, w.account(to), deposited, mdb.ExpectVersion(w.known[to].version))
		return err
	})
}

// catchUp reads what is new in an account. It returns which of the lost attempts is there.
func (w *writer) catchUp(ctx context.Context, account int, lost map[uuid.UUID]uuid.UUID) (found uuid.UUID, err error) {
	l := &w.known[account]
	for m, err := range w.store.StreamMessages(ctx, w.account(account), mdb.AfterPosition(l.version)) {
		if err != nil {
			return found, err
		}
		change, err := effect(m)
		if err != nil {
			return found, err
		}
		*l = ledger{l.balance + change, m.Position}
		if _, ok := lost[m.ID]; ok {
			found = m.ID
		}
	}
	return found, nil
}

// An outage is a time in which calls fail.
type outage struct{ since time.Time }

const patience = time.Minute

// wait waits before the next attempt, and returns the error of an outage that does not
// end.
func (o *outage) wait(ctx context.Context, err error) error {
	var argument *mdb.ArgumentError
	if o.since.IsZero() {
		o.since = time.Now()
	}
	if errors.As(err, &argument) || time.Since(o.since) > patience || ctx.Err() != nil {
		return err
	}
	pause(ctx, 20*time.Millisecond)
	return nil
}

func pause(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

// await waits until a condition holds.
func await(ctx context.Context, what string, limit time.Duration, holds func() bool) error {
	begin := time.Now()
	for !holds() {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if time.Since(begin) > limit {
			return fmt.Errorf("%s: not within %s", what, seconds(limit))
		}
		pause(ctx, 5*time.Millisecond)
	}
	return nil
}
