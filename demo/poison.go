package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/messagedb-go/messagedb/mdb"
	"github.com/messagedb-go/messagedb/mdb/consumer"
)

// poison writes a message that the projection cannot handle, and later deploys a version that can.
func (s *show) poison(ctx context.Context, length time.Duration) (string, error) {
	end := time.Now().Add(length)
	pause(ctx, length/10)
	if ctx.Err() != nil {
		return "", ctx.Err()
	}
	account := s.bank.account(2)
	s.group.mark()
	s.poisoned = true
	// A write that has begun is finished, so that its outcome is known.
	if err := s.bank.audit(context.WithoutCancel(ctx), account); err != nil {
		return "", err
	}
	parked, err := s.awaitParked(ctx, true)
	if err != nil {
		return "", err
	}
	s.board.note("Messages of the parked account wait, in their order, so latency rises.")
	s.board.say("a message of an unknown type: its account is parked, %d others go on", accounts-1)
	pause(ctx, length/3)

	if err := s.deploy(ctx); err != nil {
		return "", err
	}
	s.board.say("a version that knows the type is deployed, process by process")
	version, err := s.bank.store.StreamVersion(ctx, account)
	if err != nil {
		return "", err
	}
	waiting, written := version-parked.Position+1, s.bank.messages.Load()
	begin := time.Now()
	if err := s.replay(ctx); err != nil {
		return "", err
	}
	if err := await(ctx, "the projection catches up", patience, func() bool { return s.group.handled() >= written }); err != nil {
		return "", err
	}
	took := time.Since(begin)
	_, others := s.group.waited(account)
	s.board.say("replayed %s messages of the account in order, in %s", count(waiting), latency(took))
	s.board.say("the longest wait of a message in the other accounts was %s", latency(others))
	pause(ctx, time.Until(end))
	return fmt.Sprintf("1 of %d accounts was parked, its %s messages replayed in order in %s", accounts, count(waiting), latency(took)), nil
}

// audit writes a message of a type that the first version of the projection does not know.
func (b *bank) audit(ctx context.Context, account mdb.StreamName) error {
	m := mdb.NewMessage(audited, Moved{})
	m.Metadata = Origin{WrittenAt: time.Now().UnixMicro()}
	written, err := b.store.WriteMessage(ctx, account, m)
	if err != nil {
		return err
	}
	b.acknowledge(written.ID)
	return nil
}

// deploy replaces the processes of the first version, one after the other.
func (s *show) deploy(ctx context.Context) error {
	for _, old := range s.group.running() {
		if old.version != firstVersion {
			continue
		}
		fresh, err := s.group.start(secondVersion)
		if err != nil {
			return err
		}
		if err := await(ctx, "a new process has accounts", patience, func() bool { return s.group.shares(fresh) }); err != nil {
			return err
		}
		if err := s.group.stop(old); err != nil {
			return err
		}
	}
	return nil
}

// replay replays what is parked, and waits until nothing is.
func (s *show) replay(ctx context.Context) error {
	if _, err := s.admin().Replay(ctx, s.db.consumer()); err != nil {
		return err
	}
	if _, err := s.awaitParked(ctx, false); err != nil {
		return err
	}
	s.poisoned = false
	return nil
}

// awaitParked waits until a stream is parked, which it returns, or until none is.
func (s *show) awaitParked(ctx context.Context, parked bool) (first consumer.ParkedStream, err error) {
	var list []consumer.ParkedStream
	var failed error
	err = await(ctx, "what is parked", patience, func() bool {
		list, failed = s.admin().Parked(ctx, s.db.consumer())
		return failed == nil && (len(list) > 0) == parked
	})
	if err != nil {
		return first, errors.Join(err, failed)
	}
	if parked {
		first = list[0]
	}
	return first, nil
}

func (s *show) admin() *consumer.Operator { return consumer.Admin(s.bank.store.Pool()) }
