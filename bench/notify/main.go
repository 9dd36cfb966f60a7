// Command notify measures what the NOTIFY trigger costs writers and how fast it makes
// subscriptions, compared with polling and with a trigger that notifies on each insert. It
// starts a PostgreSQL and prints Markdown. The exit status is 1 if a bound does not hold,
// and 2 after any other error.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"time"
)

// A bench is a run of the measurements.
type bench struct {
	rounds int
	turn   time.Duration
	failed []string // bounds that do not hold
}

func main() {
	b := new(bench)
	flag.IntVar(&b.rounds, "rounds", 6, "rounds of each comparison")
	flag.DurationVar(&b.turn, "turn", 250*time.Millisecond, "how long each trigger runs in a turn; a round has two turns")
	only := flag.String("only", "", "run only writes, limit, latency or idle")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	err := b.run(ctx, *only)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "notify:", err)
		os.Exit(2)
	}
	if len(b.failed) > 0 {
		os.Exit(1)
	}
}

func (b *bench) run(ctx context.Context, only string) error {
	fmt.Printf("# The NOTIFY trigger\n\n%s, %d CPUs, server and clients on this machine; %d rounds of 2 × %v for each trigger; medians with 95 %% intervals\n",
		runtime.Version(), runtime.NumCPU(), b.rounds, b.turn)
	for _, part := range []struct {
		name string
		run  func(context.Context) error
	}{{"writes", b.writes}, {"limit", b.limit}, {"latency", b.latency}, {"idle", b.idle}} {
		if only != "" && only != part.name {
			continue
		}
		if err := part.run(ctx); err != nil {
			return fmt.Errorf("%s: %w", part.name, err)
		}
	}
	if len(b.failed) == 0 {
		fmt.Println("\nAll bounds hold.")
		return nil
	}
	fmt.Println("\nBounds that do not hold:")
	for _, f := range b.failed {
		fmt.Println("-", f)
	}
	return nil
}

// require records whether a bound holds.
func (b *bench) require(ok bool, format string, args ...any) {
	if !ok {
		b.failed = append(b.failed, fmt.Sprintf(format, args...))
	}
}
