// Benchmarks of package mdb against its rivals and the floor, on a PostgreSQL that
// it starts. What it prints is Markdown; the exit status is 1 if a floor fails.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// options are what a run can be told.
type options struct {
	rounds  int
	turn    time.Duration
	quick   bool
	growth  bool
	only    string
	rival   string
	out     string
	gobench string
	profile string
}

func main() {
	var o options
	flag.IntVar(&o.rounds, "rounds", 10, "rounds of each case, at least 6 for an interval")
	flag.DurationVar(&o.turn, "turn", 50*time.Millisecond, "how long each rival runs in a turn, twice a round")
	flag.BoolVar(&o.quick, "quick", false, "only the cases that matter most")
	flag.BoolVar(&o.growth, "growth", false, "measure how times grow with the store instead")
	flag.StringVar(&o.only, "only", "", "only the case of this name, or cases whose names contain this")
	flag.StringVar(&o.rival, "rival", "", "only rivals whose names begin with this")
	flag.StringVar(&o.out, "out", "", "folder for the report, its raw data and its charts")
	flag.StringVar(&o.gobench, "gobench", "", "file to add figures to, as of go test -bench")
	flag.StringVar(&o.profile, "profile", "", "folder for a CPU and a memory profile")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, o); err != nil {
		log.Fatal(err) //nolint:gocritic // the process ends
	}
}

// An output keeps the first error, so that what is printed need not look at each.
type output struct {
	w   io.Writer
	err error
}

func (o *output) printf(format string, args ...any) {
	if o.err == nil {
		_, o.err = fmt.Fprintf(o.w, format, args...)
	}
}

var errFloor = errors.New("a floor fails")

func run(ctx context.Context, o options) (err error) {
	report := &output{w: os.Stdout}
	if o.out != "" {
		if err := os.MkdirAll(o.out, 0o750); err != nil {
			return err
		}
		name := "report.md"
		if o.growth {
			name = "growth.md"
		}
		file, err := os.Create(filepath.Join(o.out, name))
		if err != nil {
			return err
		}
		defer file.Close() //nolint:errcheck // it is not buffered
		report.w = io.MultiWriter(os.Stdout, file)
	}
	if o.growth {
		return errors.Join(growth(ctx, o, report), report.err)
	}
	e, err := newEnvironment(ctx)
	if err != nil {
		return err
	}
	defer e.Close()
	if err := heading(ctx, e, o, report); err != nil {
		return err
	}
	stop, err := startProfile(o.profile)
	if err != nil {
		return err
	}
	samples, err := measureAll(ctx, e, o, report)
	if err := errors.Join(err, stop()); err != nil {
		return err
	}
	floors, hold := floorsTable(samples)
	if o.rival == "" {
		report.printf("%s", floors)
	}
	if err := errors.Join(save(o, samples), report.err); err != nil {
		return err
	}
	if !hold {
		return errFloor
	}
	return nil
}

func heading(ctx context.Context, e *environment, o options, w *output) error {
	settings, err := e.settings(ctx)
	if err != nil {
		return err
	}
	w.printf("# Benchmarks\n\n%s\n\nPostgreSQL %d on the same machine, by TCP; a store of %d messages; %d rounds of 2 × %v a rival; medians. "+
		"× is the time divided by that of the first row, round by round.\n\nSettings of the server: %s\n",
		machine(), e.server.Version(), seedMessages+sharedMessages, o.rounds, o.turn, settings)
	return nil
}

func measureAll(ctx context.Context, e *environment, o options, w *output) (all []sample, err error) {
	h := &harness{postmaster: e.postmaster, rounds: o.rounds, turn: o.turn}
	cases := e.cases()
	exact := slices.ContainsFunc(cases, func(c benchCase) bool { return c.name == o.only })
	for _, c := range cases {
		if o.quick && !c.quick || !strings.Contains(c.name, o.only) || exact && c.name != o.only {
			continue
		}
		if c = c.of(o.rival); len(c.rivals) == 0 {
			continue
		}
		samples, err := h.measure(ctx, c)
		if err != nil {
			return nil, err
		}
		all = append(all, samples...)
		w.printf("%s", table(c, summarize(c, samples)))
	}
	return all, nil
}

// of leaves the rivals whose names begin so.
func (c benchCase) of(prefix string) benchCase {
	var rivals []rival
	for _, r := range c.rivals {
		if strings.HasPrefix(r.name, prefix) {
			rivals = append(rivals, r)
		}
	}
	c.rivals = rivals
	return c
}
