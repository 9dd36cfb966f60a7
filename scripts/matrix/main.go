// Matrix runs the tests on several versions of PostgreSQL, one after the other, and
// prints one table of the results:
//
//	go run ./scripts/matrix [-short] [-record docs/compatibility.json] MAJOR...
//
// With -short it leaves out what takes long, and the race detector. With -record it also keeps the results in
// that file, for the documentation, and writes the page beside it. Its exit status is 1
// if a test fails, or a column has no tests.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	file := flag.String("record", "", "keep the results in this `file`")
	short := flag.Bool("short", false, "leave out what takes long")
	flag.Parse()
	if flag.NArg() == 0 || *short && *file != "" { // the documentation is of all tests
		fmt.Fprintln(os.Stderr, "usage: matrix [-short] [-record FILE] MAJOR...")
		os.Exit(2)
	}
	if err := run(*file, *short, flag.Args()); err != nil {
		fmt.Fprintln(os.Stderr, "matrix:", err)
		os.Exit(1)
	}
}

func run(file string, short bool, majors []string) error {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	var results []result
	for _, major := range majors {
		r, err := test(ctx, major, short, os.Stdout)
		if err != nil {
			return err
		}
		results = append(results, r)
	}
	fmt.Printf("\n%s", table(results))
	for _, r := range results {
		if err := r.fault(); err != nil {
			return err
		}
	}
	if file != "" {
		return record(file, results)
	}
	return nil
}
