package main

import (
	"context"
	"fmt"
	"time"
)

// follow lets the writers and the projections work.
func (s *show) follow(ctx context.Context, length time.Duration) (string, error) {
	s.board.say("%d writers read two accounts, and write both messages or none", writers)
	s.board.say("one projection, a process of its own, keeps balances in tables")
	s.board.say("the other one counts messages in the memory of this process")
	pause(ctx, length)
	transfers, process := s.bank.transferred.figures(length), s.child.meter.figures(length)
	return fmt.Sprintf("%.0f transfers a second, %s each; handled %s after the write began",
		transfers.PerSecond, latency(transfers.P50), latency(process.P50)), nil
}

// kill kills the projection's process and starts it again.
func (s *show) kill(ctx context.Context, length time.Duration) (string, error) {
	end := time.Now().Add(length)
	pause(ctx, length/10)
	killed := time.Now()
	pid := s.child.kill()
	s.board.note("Messages wait while the projection is dead, so its latency rises.")
	s.board.say("killed process %d", pid)
	pause(ctx, length/3)
	if ctx.Err() != nil {
		return "", ctx.Err()
	}

	dead := time.Since(killed)
	started, written := time.Now(), s.bank.messages.Load()
	waiting := written - s.child.handled()
	if err := s.child.start(); err != nil {
		return "", err
	}
	s.board.say("started again after its stored position, %s messages wait", count(waiting))
	if err := await(ctx, "the projection catches up", patience, func() bool { return s.child.handled() >= written }); err != nil {
		return "", err
	}
	took := time.Since(started)
	s.board.say("caught up in %s", latency(took))
	pause(ctx, time.Until(end))
	return fmt.Sprintf("dead for %s, then handled the %s messages that waited in %s",
		seconds(dead), count(waiting), latency(took)), nil
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
		outcome = fmt.Sprintf("%d connections were ended", cut)
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
		return s.child.handled() >= written && s.totals.handled() >= written
	}); err != nil {
		return "", err
	}
	s.board.say("writing again after %s, everything handled after %s", latency(resumed), latency(time.Since(begin)))
	pause(ctx, time.Until(end))

	outcome += fmt.Sprintf(", transfers went on after %s; ", latency(resumed))
	had, hadNot := s.bank.doubts.written.Load()-writtenBefore, s.bank.doubts.notWritten.Load()-notWrittenBefore
	if had+hadNot == 0 {
		return outcome + "no answer was lost", nil
	}
	return outcome + fmt.Sprintf("%d answers lost: %d written, %d not", had+hadNot, had, hadNot), nil
}

func (s *show) transfers() int64 { return s.bank.transferred.figures(window).Total }
