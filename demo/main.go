// Demo shows in half a minute what the library is for.
//
// Writers move money between accounts. The processes of a consumer share the accounts and keep the
// balances, while the demo kills one of them, writes a message that they cannot handle, restarts the
// server, and compares NOTIFY with polling. At the end queries prove that nothing was lost and
// nothing was handled twice.
//
// It runs on a PostgreSQL of its own. With DATABASE_URL it runs on that database, after
// asking or with YES=1, and removes what it made there.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"strings"
	"time"
)

var intro = []string{
	"Writers move money between accounts: a transfer is two messages in PostgreSQL.",
	"Two processes handle them. One is killed, a message fails, the server restarts.",
	"At the end queries prove that nothing was lost and nothing was handled twice.",
}

var errStopped = errors.New("stopped before the proof, by Ctrl-C twice")

func main() {
	if len(os.Args) == 4 && os.Args[1] == projectionCommand {
		os.Exit(projectionProcess(os.Args[2], os.Args[3]))
	}
	seconds := flag.Float64("seconds", 30, "how long the demo runs, without the start and the proof")
	flag.Parse()
	if *seconds <= 0 || flag.NArg() > 0 {
		flag.Usage()
		os.Exit(2)
	}
	os.Exit(status(time.Duration(*seconds * float64(time.Second))))
}

// status runs the demo and returns the exit status of the process.
func status(length time.Duration) int {
	stops, all, scenes := newStops()
	defer stops.close()
	err := run(all, scenes, stops, length)
	switch {
	case err == nil:
		return 0
	case errors.Is(err, errDeclined):
		fmt.Println(err)
		return 0
	}
	fmt.Fprintln(os.Stderr, "demo:", err)
	if errors.Is(err, errStopped) {
		return 130
	}
	return 1
}

// run prepares the database, shows the scenes and reports. The context scenes ends
// before all does.
func run(all, scenes context.Context, stops *stops, length time.Duration) (err error) {
	fmt.Println(strings.Join(intro, "\n") + "\n")
	db, err := prepare(all, scenes)
	if err != nil {
		return err
	}
	s := newShow(db, length)
	removed := false
	remove := func() error {
		if removed {
			return nil
		}
		removed = true
		// What was made is removed whatever has happened.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(all), 30*time.Second)
		defer cancel()
		lines, err := db.remove(ctx)
		s.board.removed(lines)
		return err
	}
	defer func() { err = errors.Join(err, remove()) }()

	work := func() error { return s.play(all, scenes) }
	if terminal() {
		err = onScreen(s.board, stops.interrupt, work)
	} else {
		err = inLines(s.board, os.Stdout, work)
	}
	if all.Err() != nil {
		err = errStopped
	}
	if err := errors.Join(err, remove()); err != nil {
		return err
	}
	return report(s.board.snapshot())
}
