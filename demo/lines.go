package main

import (
	"fmt"
	"io"
	"strings"
	"sync"
	"time"
)

// inLines prints what happens while work runs, for where there is no terminal.
func inLines(b *board, out io.Writer, work func() error) error {
	var mu sync.Mutex
	print := func(line string) {
		mu.Lock()
		defer mu.Unlock()
		_, _ = fmt.Fprintln(out, line)
	}
	b.onLine = print
	done := make(chan error, 1)
	go func() { done <- work() }()
	ticks := time.NewTicker(5 * time.Second)
	defer ticks.Stop()
	for {
		select {
		case err := <-done:
			return err
		case <-ticks.C:
			print("    " + inLine(b.snapshot()))
		}
	}
}

// inLine says in one line how far the demo is.
func inLine(s State) string {
	parts := make([]string, len(s.Rows))
	for i, r := range s.Rows {
		parts[i] = fmt.Sprintf("%s: %s, p50 %s", r.Name, count(r.Total), latency(r.P50))
	}
	return fmt.Sprintf("%5.1f s  %s; %s conflicts, decided again", s.Elapsed.Seconds(), strings.Join(parts, "; "), count(s.Conflicts))
}
