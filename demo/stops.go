package main

import (
	"context"
	"os"
	"os/signal"
	"sync/atomic"
	"syscall"
)

// Stops turns Ctrl-C, which is a signal or a key, into the end of two contexts: the
// first one ends the scenes, so that the proof follows; the second one ends everything.
type stops struct {
	count             atomic.Int32
	endScenes, endAll context.CancelFunc
	signals           chan os.Signal
}

func newStops() (s *stops, all, scenes context.Context) {
	s = &stops{signals: make(chan os.Signal, 2)}
	all, s.endAll = context.WithCancel(context.Background())
	scenes, s.endScenes = context.WithCancel(all)
	// A reader of the output that goes away must not keep the demo from removing what it made.
	signal.Ignore(syscall.SIGPIPE)
	// Nor must a terminal that is closed.
	signal.Notify(s.signals, os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	go func() {
		for range s.signals {
			s.interrupt()
		}
	}()
	return s, all, scenes
}

func (s *stops) interrupt() {
	s.endScenes()
	if s.count.Add(1) > 1 {
		s.endAll()
	}
}

func (s *stops) close() {
	signal.Stop(s.signals)
	close(s.signals)
	s.endAll()
}
