// Command bench compares package mdb with other clients of Message DB, on a PostgreSQL
// that it starts. It prints Markdown. The exit status is 1 if a bound does not hold, and
// 2 after any other error.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

type options struct {
	rounds  int
	turn    time.Duration
	quick   bool
	growth  bool
	only    string
	variant string
	out     string
	from    string
	readme  string
	gobench string
	profile string
}

func main() {
	var o options
	flag.IntVar(&o.rounds, "rounds", 10, "rounds of each case, at least 6 for an interval")
	flag.DurationVar(&o.turn, "turn", 50*time.Millisecond, "how long each variant runs in a turn; a round has two turns")
	flag.BoolVar(&o.quick, "quick", false, "run only the most important cases")
	flag.BoolVar(&o.growth, "growth", false, "measure how times grow with the store instead")
	flag.StringVar(&o.only, "only", "", "run only the case with this name, or the cases whose names contain it")
	flag.StringVar(&o.variant, "variant", "", "run only the variants whose names begin with this")
	flag.StringVar(&o.variant, "rival", "", "the name of -variant in older versions, which scripts/bench-compare uses")
	flag.StringVar(&o.out, "out", "", "folder to write the report, its data and its chart to")
	flag.StringVar(&o.from, "from", "", "make the report from this data, and measure nothing")
	flag.StringVar(&o.readme, "readme", "", "README to put the table and the chart into, with -out")
	flag.StringVar(&o.gobench, "gobench", "", "file to append each turn to, in the format of go test -bench")
	flag.StringVar(&o.profile, "profile", "", "folder to write a CPU and a memory profile to")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	err := run(ctx, o)
	stop()
	if err == nil {
		return
	}
	fmt.Fprintln(os.Stderr, "bench:", err)
	if errors.Is(err, errBound) {
		os.Exit(1)
	}
	os.Exit(2)
}

// An output keeps the first error, so that callers need to check only once.
type output struct {
	w   io.Writer
	err error
}

func (o *output) printf(format string, args ...any) {
	if o.err == nil {
		_, o.err = fmt.Fprintf(o.w, format, args...)
	}
}

var errBound = errors.New("a bound does not hold")

func run(ctx context.Context, o options) error {
	if o.from != "" {
		r, err := readResults(o.from)
		if err != nil {
			return err
		}
		return writeReport(o, r)
	}
	if o.out != "" {
		if err := checkClean(ctx); err != nil {
			return err
		}
		if err := os.MkdirAll(o.out, 0o750); err != nil {
			return err
		}
	}
	if o.growth {
		return recordGrowth(ctx, o)
	}
	r, err := measure(ctx, o)
	if err != nil {
		return err
	}
	if o.gobench != "" {
		if err := appendTurns(o.gobench, r.samples); err != nil {
			return err
		}
	}
	if o.out != "" {
		file := filepath.Join(o.out, samplesFile)
		if err := writeResults(file, r); err != nil {
			return err
		}
		// The report is always made from the file, so that it can be made again.
		if r, err = readResults(file); err != nil {
			return err
		}
		if err := writeReport(o, r); err != nil {
			return err
		}
	}
	if _, hold := boundsTable(r.samples); !hold {
		return errBound
	}
	return nil
}

// measure runs the cases and prints each table as soon as it is complete.
func measure(ctx context.Context, o options) (results, error) {
	e, err := newEnvironment(ctx)
	if err != nil {
		return results{}, err
	}
	defer e.Close()
	r := results{}
	if r.facts, err = e.facts(ctx, o); err != nil {
		return results{}, err
	}
	w := &output{w: os.Stdout}
	w.printf("%s", heading(r))
	stop, err := startProfile(o.profile)
	if err != nil {
		return results{}, err
	}
	r.samples, err = measureAll(ctx, e, o, w)
	if err := errors.Join(err, stop(), w.err); err != nil {
		return results{}, err
	}
	if o.variant == "" {
		bounds, _ := boundsTable(r.samples)
		w.printf("%s", bounds)
	}
	return r, w.err
}

func measureAll(ctx context.Context, e *environment, o options, w *output) (all []sample, err error) {
	h := &harness{postmaster: e.postmaster, rounds: o.rounds, turn: o.turn}
	cases := e.cases()
	exact := slices.ContainsFunc(cases, func(c benchCase) bool { return c.name == o.only })
	for _, c := range cases {
		if o.quick && !c.quick || !strings.Contains(c.name, o.only) || exact && c.name != o.only {
			continue
		}
		if c = c.only(o.variant); len(c.variants) == 0 {
			continue
		}
		samples, err := h.measure(ctx, c)
		if err != nil {
			return nil, err
		}
		all = append(all, samples...)
		w.printf("%s", table(samples))
	}
	return all, nil
}

// only returns the case with the variants whose names begin with prefix.
func (c benchCase) only(prefix string) benchCase {
	var variants []variant
	for _, v := range c.variants {
		if strings.HasPrefix(v.name, prefix) {
			variants = append(variants, v)
		}
	}
	c.variants = variants
	return c
}
