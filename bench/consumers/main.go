// Command consumers measures how many messages a second each form of consumers handles, compared
// with subscriptions and statements without a consumer. It starts a PostgreSQL with fsync and
// prints Markdown. The exit status is 1 if a bound does not hold, and 2 after any other error.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"strings"
	"time"

	"github.com/messagedb-go/messagedb/bench/internal/figures"
)

// A bench is a run of the measurements.
type bench struct {
	rounds   int
	messages int
	only     string

	env   *environment
	rates map[string]map[int][]float64 // messages a second, by way and workers
}

// workers are the columns of the table.
var workers = []int{1, 4, manyWorkers}

const manyWorkers = 16

func main() {
	b := &bench{rates: make(map[string]map[int][]float64)}
	flag.IntVar(&b.rounds, "rounds", 6, "rounds, in each of which every way handles all its messages; 0: only the table of long transactions")
	flag.IntVar(&b.messages, "messages", 100_000, "messages of the handler that does nothing; others handle a fifth or a fiftieth")
	flag.StringVar(&b.only, "only", "", "run only the ways whose names contain this")
	doc := flag.String("doc", "", "page to put the tables into")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	failed, err := b.run(ctx, *doc)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "consumers:", err)
		os.Exit(2)
	}
	if failed {
		os.Exit(1)
	}
}

func (b *bench) run(ctx context.Context, doc string) (failed bool, err error) {
	if b.env, err = newEnvironment(ctx, b.messages); err != nil {
		return false, err
	}
	defer b.env.close()
	ways := b.env.ways()
	for range b.rounds {
		for _, w := range ways {
			if !strings.Contains(w.name, b.only) {
				continue
			}
			for _, n := range workers {
				if n > 1 && w.single || n == manyWorkers && !w.many {
					continue
				}
				rate, err := b.env.measure(ctx, w, n)
				if err != nil {
					return false, fmt.Errorf("%s, %d workers: %w", w.name, n, err)
				}
				if b.rates[w.name] == nil {
					b.rates[w.name] = make(map[int][]float64)
				}
				b.rates[w.name][n] = append(b.rates[w.name][n], rate)
			}
		}
	}
	block := b.block(ways)
	text, failed := b.bounds()
	fmt.Print("# Consumers\n\n", block, text)
	if doc != "" && b.rounds > 0 {
		err = figures.Put(doc, docBegin, docEnd, block)
	}
	if err != nil || b.only != "" {
		return failed, err
	}
	table, err := b.env.long(ctx, ways)
	if err != nil {
		return false, err
	}
	block = longBlock(ways, table, b.messages/few.part)
	fmt.Print("\n# Consumers beside a transaction that is open for long\n\n", block)
	if doc != "" {
		err = figures.Put(doc, longBegin, longEnd, block)
	}
	return failed, err
}

// block returns the table and what was measured.
func (b *bench) block(ways []way) string {
	var w strings.Builder
	w.WriteString("| Messages a second | 1 worker | 4 workers | 16 workers |\n|---|---:|---:|---:|\n")
	for _, way := range ways {
		if b.rates[way.name] == nil {
			continue
		}
		fmt.Fprintf(&w, "| %s |", way.name)
		for _, n := range workers {
			cell := "–"
			if rates := b.rates[way.name][n]; len(rates) > 0 {
				cell = figures.Rounded(figures.Summary(rates).Center)
			}
			fmt.Fprintf(&w, " %s |", cell)
		}
		w.WriteString("\n")
	}
	fmt.Fprintf(&w, "\nMedians of %d rounds, of the time from the first call of the handler until all effects were committed. Measured on %s by `make bench-consumers` with PostgreSQL %s with fsync, server and client on one machine with %d CPUs. The ratios say more than the rates.\n",
		b.rounds, time.Now().UTC().Format("2 January 2006"), b.env.version, runtime.NumCPU())
	return w.String()
}

// bounds compares ways of the same rounds. That of EachQueued and a batch without a checkpoint is
// one of BenchmarkForms of package consumer, because here their transactions have other sizes.
func (b *bench) bounds() (text string, failed bool) {
	var w strings.Builder
	w.WriteString("\n| Bound | Measured |\n|---|---|\n")
	for _, bound := range []struct {
		fast, slow string
		workers    int
		least      float64
	}{
		{nothingEach, nothingSubscription, 1, 0.95},
		{nothingEach, nothingSubscription, 4, 0.95},
		{eachQueued, eachTxSingle, 1, 10},
	} {
		fast, slow := b.rates[bound.fast][bound.workers], b.rates[bound.slow][bound.workers]
		if len(fast) == 0 || len(fast) != len(slow) {
			continue
		}
		ratio := figures.Ratio(fast, slow).Center
		result := ""
		if ratio < bound.least {
			result, failed = ": does not hold", true
		}
		fmt.Fprintf(&w, "| workers: %d; %s, at least %v times as fast as %s | %.2f%s |\n", bound.workers, bound.fast, bound.least, bound.slow, ratio, result)
	}
	return w.String(), failed
}

// The lines of the page between which the tables stand.
const (
	docBegin  = "<!-- bench-consumers puts the table here -->\n"
	docEnd    = "<!-- end of bench-consumers -->\n"
	longBegin = "<!-- bench-consumers puts the table of long transactions here -->\n"
	longEnd   = "<!-- end of the table of long transactions -->\n"
)
