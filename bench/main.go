// Benchmarks of package mdb against its rivals and the floor, on a PostgreSQL that
// it starts. What it prints is a table in Markdown.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"log"
	"os"
	"os/signal"
	"runtime"
	"strings"
	"time"
)

func main() {
	rounds := flag.Int("rounds", 20, "rounds of each case, at least 10 for an interval worth its name")
	turn := flag.Duration("turn", 100*time.Millisecond, "how long each rival runs in a turn, twice a round")
	only := flag.String("only", "", "only cases whose names contain this")
	raw := flag.String("raw", "", "file for the samples, as JSON")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := bench(ctx, *rounds, *turn, *only, *raw); err != nil {
		log.Fatal(err) //nolint:gocritic // the process ends
	}
}

func bench(ctx context.Context, rounds int, turn time.Duration, only, raw string) error {
	e, err := newEnvironment(ctx)
	if err != nil {
		return err
	}
	defer e.Close()
	fmt.Printf("PostgreSQL %d on the same machine, by TCP; %s, %d CPUs; %d rounds of %v a rival and turn; medians\n",
		e.server.Version(), runtime.Version(), runtime.NumCPU(), rounds, turn)
	var all []sample
	for _, c := range e.cases() {
		if !strings.Contains(c.name, only) {
			continue
		}
		samples, err := measure(ctx, c, rounds, turn)
		if err != nil {
			return err
		}
		all = append(all, samples...)
		fmt.Print(report(c, summarize(c, samples)))
	}
	if raw == "" {
		return nil
	}
	data, err := json.MarshalIndent(all, "", " ")
	if err != nil {
		return err
	}
	return os.WriteFile(raw, data, 0o600)
}
