package main

import (
	"context"
	"fmt"
	"time"
)

// follow lets the writers and the projections work.
func (s *show) follow(ctx context.Context, length time.Duration) (string, error) {
	s.board.say("%d writers read two accounts, and write both messages or none", writers)
	s.board.say("two processes share the accounts, and keep balances in tables")
	s.board.say("another projection counts messages in the memory of this process")
	pause(ctx, length)
	transfers, balances := s.bank.transferred.figures(length), s.group.meter.figures(length)
	return fmt.Sprintf("%.0f transfers a second, %s each; stored %s after the write began",
		transfers.PerSecond, latency(transfers.P50), latency(balances.P50)), nil
}

// kill kills a process of the projection, and starts another one later.
func (s *show) kill(ctx context.Context, length time.Duration) (string, error) {
	end := time.Now().Add(length)
	if err := await(ctx, "both processes have accounts", patience, s.group.shared); err != nil {
		return "", err
	}
	pause(ctx, length/10)
	if ctx.Err() != nil {
		return "", ctx.Err()
	}
	victim := s.group.busiest()
	theirs := s.group.accounts(victim)
	s.group.mark()
	killed := time.Now()
	s.group.kill(victim)
	s.board.note("Messages of the dead process's accounts wait, so latency rises.")
	s.board.say("killed process %d, which had %d of the %d accounts", victim.pid(), len(theirs), accounts)

	heir := s.group.running()[0]
	if err := await(ctx, "the other process takes over", patience, func() bool { return len(s.group.accounts(heir)) == accounts }); err != nil {
		return "", err
	}
	s.board.say("process %d has them after %s: the lease, %s, had to end", heir.pid(), latency(time.Since(killed)), lease)
	written := s.bank.messages.Load()
	if err := await(ctx, "the projection catches up", patience, func() bool { return s.group.handled() >= written }); err != nil {
		return "", err
	}
	longest, others := s.group.waited(theirs...)
	s.board.say("a message waited %s at most there, %s in the other accounts", latency(longest), latency(others))

	started := time.Now()
	fresh, err := s.group.start(firstVersion)
	if err != nil {
		return "", err
	}
	if err := await(ctx, "both processes have accounts", patience, s.group.shared); err != nil {
		return "", err
	}
	s.board.say("a new process has got %d accounts after %s", len(s.group.accounts(fresh)), latency(time.Since(started)))
	pause(ctx, time.Until(end))
	return fmt.Sprintf("a message of its %d accounts waited %s at most, one of the others %s", len(theirs), latency(longest), latency(others)), nil
}

func (s *show) restartTitle() string {
	if s.db.server == nil {
		return "The demo's connections are cut under load"
	}
	return "The server is restarted under load"
}

// restart restarts the server, or cuts the demo's connections to it.
func (s *show) restart(ctx context.Context, length time.Duration) (string, error) {
	end := time.Now().Add(length)
	pause(ctx, length/10)
	if ctx.Err() != nil {
		return "", ctx.Err()
	}
	begin := time.Now()
	writtenBefore, notWrittenBefore := s.bank.doubts.written.Load(), s.bank.doubts.notWritten.Load()
	s.board.note("Calls fail and are repeated while the server is away, so latency rises.")
	if s.db.server != nil {
		s.board.say("PostgreSQL stops and starts")
	}
	cut, err := s.db.interrupt(context.WithoutCancel(ctx))
	if err != nil {
		return "", err
	}
	outcome := fmt.Sprintf("away for %s", latency(time.Since(begin)))
	if s.db.server == nil {
		s.board.say("ended %d connections of the demo; your server is not restarted", cut)
		outcome = fmt.Sprintf("%d connections ended", cut)
	} else {
		s.board.say("PostgreSQL is back after %s", latency(time.Since(begin)))
	}

	transfers := s.transfers()
	if err := await(ctx, "the writers go on", patience, func() bool { return s.transfers() > transfers }); err != nil {
		return "", err
	}
	resumed := time.Since(begin)
	written := s.bank.messages.Load()
	if err := await(ctx, "the projections go on", patience, func() bool {
		return s.group.handled() >= written && s.totals.handled() >= written
	}); err != nil {
		return "", err
	}
	s.board.say("writing again after %s, everything handled after %s", latency(resumed), latency(time.Since(begin)))
	pause(ctx, time.Until(end))

	outcome += fmt.Sprintf(", writing again after %s; ", latency(resumed))
	had, hadNot := s.bank.doubts.written.Load()-writtenBefore, s.bank.doubts.notWritten.Load()-notWrittenBefore
	if had+hadNot == 0 {
		return outcome + "no answer was lost", nil
	}
	return outcome + fmt.Sprintf("%d answers lost, %d written", had+hadNot, had), nil
}

func (s *show) transfers() int64 { return s.bank.transferred.figures(window).Total }
