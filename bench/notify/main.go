// The cost and the effect of the NOTIFY trigger, against no trigger with polling and
// against a trigger that notifies at every insert. It starts its own PostgreSQL, and
// prints tables in Markdown.
package main

import (
	"context"
	"flag"
	"fmt"
	"log"
	"os"
	"os/signal"
	"runtime"
	"time"
)

// A bench is what the measurements share.
type bench struct {
	rounds int
	turn   time.Duration
	failed []string // floors that do not hold
}

func main() {
	b := new(bench)
	flag.IntVar(&b.rounds, "rounds", 6, "rounds of each comparison")
	flag.DurationVar(&b.turn, "turn", 250*time.Millisecond, "how long each side runs in a turn, twice a round")
	only := flag.String("only", "", "only writes, budget, latency or idle")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	fmt.Printf("# The NOTIFY trigger\n\n%s, %d CPUs for clients and server together; %d rounds of 2 × %v a side; medians with 95 %% intervals\n",
		runtime.Version(), runtime.NumCPU(), b.rounds, b.turn)
	for _, part := range []struct {
		name string
		run  func(context.Context) error
	}{{"writes", b.writes}, {"budget", b.ringBudget}, {"latency", b.latency}, {"idle", b.idle}} {
		if *only != "" && *only != part.name {
			continue
		}
		if err := part.run(ctx); err != nil {
			log.Fatalf("%s: %v", part.name, err) //nolint:gocritic // the process ends
		}
	}
	if len(b.failed) > 0 {
		fmt.Println("\nFloors that do not hold:")
		for _, f := range b.failed {
			fmt.Println("-", f)
		}
		os.Exit(1)
	}
	fmt.Println("\nAll floors hold.")
}

// require records a floor.
func (b *bench) require(ok bool, format string, args ...any) {
	if !ok {
		b.failed = append(b.failed, fmt.Sprintf(format, args...))
	}
}
