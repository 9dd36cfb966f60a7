package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/messagedb-go/messagedb/mdb"
)

const (
	opening = 1000 // what each account begins with
	members = 3    // of the consumer group
)

// Moved is the data of the messages Deposited and Withdrawn.
type Moved struct {
	Amount int64 `json:"amount"`
}

// Origin is the metadata: which transfer the message belongs to.
type Origin struct {
	CorrelationStreamName mdb.StreamName `json:"correlationStreamName"`
}

// effect is what a message does to its account's balance.
func effect(m mdb.Message) (int64, error) {
	var moved Moved
	if err := m.Decode(&moved); err != nil {
		return 0, err
	}
	switch m.Type {
	case "Deposited":
		return moved.Amount, nil
	case "Withdrawn":
		return -moved.Amount, nil
	}
	return 0, fmt.Errorf("a message of type %s in %s", m.Type, m.Stream)
}

type bank struct {
	store    *mdb.Store
	category mdb.Category
	accounts int
	writers  int
	duration time.Duration
	polling  bool

	stats stats
	group [members]member
}

func (b *bank) account(i int) mdb.StreamName {
	return b.category.Stream(strconv.Itoa(i + 1))
}

func (b *bank) run(ctx context.Context) error {
	for i := range b.accounts {
		m := mdb.NewMessage("Deposited", Moved{opening})
		if _, err := b.store.WriteMessage(ctx, b.account(i), m, mdb.ExpectNoStream()); err != nil {
			return err
		}
	}

	// The group goes on until it has what the writers left.
	writing, stopWriting := context.WithTimeout(ctx, b.duration)
	defer stopWriting()
	following, stopFollowing := context.WithCancelCause(ctx)
	defer stopFollowing(nil)
	var writers, auditors, group sync.WaitGroup
	failures := make(chan error, b.writers+members+2)
	start := func(wg *sync.WaitGroup, f func() error) {
		wg.Go(func() {
			if err := f(); err != nil {
				failures <- err
				stopWriting()
			}
		})
	}
	for i := range b.group {
		start(&group, func() error { return b.follow(following, i) })
	}
	for range b.writers {
		start(&writers, func() error { return b.moveMoney(writing) })
	}
	for range 2 {
		start(&auditors, func() error { return b.audit(writing) })
	}
	show := b.show(writing)
	writers.Wait()
	auditors.Wait()
	b.awaitGroup(ctx)
	stopFollowing(errFollowed)
	group.Wait()
	show()
	close(failures)
	if err := <-failures; err != nil {
		return err
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return b.prove(ctx)
}

// A ledger is what a writer knows of an account: so far as it has read.
type ledger struct{ balance, version int64 }

// moveMoney moves money between random accounts until ctx ends.
func (b *bank) moveMoney(ctx context.Context) error {
	known := make([]ledger, b.accounts)
	for i := range known {
		known[i].version = mdb.NoStream
	}
	for ctx.Err() == nil {
		from := rand.IntN(b.accounts)
		to := (from + 1 + rand.IntN(b.accounts-1)) % b.accounts
		// What has begun is finished, so that the last transfer is not in doubt.
		if err := b.transfer(context.WithoutCancel(ctx), known, from, to); err != nil {
			return err
		}
	}
	return nil
}

// transfer decides on what the writer knows, and on a lost race reads what is new
// and decides again.
func (b *bank) transfer(ctx context.Context, known []ledger, from, to int) error {
	id := mdb.StreamName("transfer-" + uuid.NewString())
	for {
		if known[from].balance == 0 {
			if err := b.catchUp(ctx, &known[from], from); err != nil {
				return err
			}
			if known[from].balance == 0 {
				return nil // nothing to move
			}
		}
		amount := 1 + rand.Int64N(known[from].balance)
		withdrawn := mdb.NewMessage("Withdrawn", Moved{amount})
		deposited := mdb.NewMessage("Deposited", Moved{amount})
		withdrawn.Metadata, deposited.Metadata = Origin{id}, Origin{id}

		begin := time.Now()
		err := b.store.Atomically(ctx, []mdb.Category{b.category}, func(tx *mdb.Tx) error {
			if _, err := tx.WriteMessage(ctx, b.account(from), withdrawn, mdb.ExpectVersion(known[from].version)); err != nil {
				return err
			}
			_, err := tx.WriteMessage(ctx, b.account(to), deposited, mdb.ExpectVersion(known[to].version))
			return err
		})
		var lost *mdb.WrongVersionError
		switch {
		case err == nil:
			b.stats.transferred(time.Since(begin))
			known[from] = ledger{known[from].balance - amount, known[from].version + 1}
			known[to] = ledger{known[to].balance + amount, known[to].version + 1}
			return nil
		case !errors.As(err, &lost):
			return err
		}
		b.stats.conflicts.Add(1)
		for _, i := range []int{from, to} {
			if err := b.catchUp(ctx, &known[i], i); err != nil {
				return err
			}
		}
	}
}

// catchUp reads what is new in an account's stream.
func (b *bank) catchUp(ctx context.Context, l *ledger, account int) error {
	begin := time.Now()
	for m, err := range b.store.StreamMessages(ctx, b.account(account), mdb.AfterPosition(l.version)) {
		if err != nil {
			return err
		}
		change, err := effect(m)
		if err != nil {
			return err
		}
		if m.Position != l.version+1 {
			return fmt.Errorf("%s: position %d follows %d", m.Stream, m.Position, l.version)
		}
		*l = ledger{l.balance + change, m.Position}
		if l.balance < 0 {
			return fmt.Errorf("%s is overdrawn at position %d", m.Stream, m.Position)
		}
	}
	b.stats.read(time.Since(begin))
	return nil
}

// audit rebuilds the balances of random accounts from their streams, and fails if
// one was ever below zero.
func (b *bank) audit(ctx context.Context) error {
	for ctx.Err() == nil {
		l := ledger{version: mdb.NoStream}
		if err := b.catchUp(context.WithoutCancel(ctx), &l, rand.IntN(b.accounts)); err != nil {
			return err
		}
		pause(ctx, 5*time.Millisecond)
	}
	return nil
}

// A member follows its share of the category.
type member struct{ seen []int64 }

// errFollowed ends the members' subscriptions.
var errFollowed = errors.New("the group has followed to the end")

// follow subscribes as a member of the group.
func (b *bank) follow(ctx context.Context, i int) error {
	err := b.store.SubscribeToCategory(ctx, b.category, func(_ context.Context, m mdb.Message) error {
		b.group[i].seen = append(b.group[i].seen, m.GlobalPosition)
		b.stats.delivered(time.Since(m.Time))
		return nil
	}, mdb.AsConsumerGroup(i, members))
	if errors.Is(err, errFollowed) {
		return nil
	}
	return err
}

// awaitGroup waits until the group has seen as many messages as were written. The
// proof tells whether they were the right ones, and fails if they never come.
func (b *bank) awaitGroup(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	for ctx.Err() == nil && b.stats.followed() < b.accounts+2*b.stats.count() {
		pause(ctx, 5*time.Millisecond)
	}
}

func pause(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}
