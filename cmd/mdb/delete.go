package main

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/messagedb-go/messagedb/mdb"
	"github.com/messagedb-go/messagedb/mdb/archive"
)

var deleteCommand = command{
	name:  "delete",
	args:  []string{"-stream NAME -before POSITION|TIME", "-category NAME -before POSITION|TIME"},
	short: "delete the old messages of a stream or a category",
	long: `Deletes the messages of a stream or a category that come before a position or a time, except the last
message of each stream, so that the versions of streams go on. It shows how many there are and asks,
unless -yes is given. Only the owner of the table messages can delete.

What a consumer of the category has not handled stays. Other subscriptions are not known here: delete only
what they have handled long ago.

The messages are deleted in parts, each in a transaction of its own. If the command is interrupted, the same
command continues. There is no way back: export the messages before.`,
	examples: `mdb delete -dry-run -category account -before 2026-01-01T00:00:00Z
mdb delete -yes -category account -before 8760h
mdb delete -yes -stream account-123 -before 2`,
	setup: func(fs *flag.FlagSet) action {
		var d deleting
		fs.Func("stream", "the `NAME` of a stream", func(given string) error {
			n, err := nameOption(given)
			d.Stream = n
			return err
		})
		fs.Func("category", "the `NAME` of a category", func(given string) (err error) {
			d.Category, err = category(given)
			return err
		})
		fs.Func("before", "the first `POSITION` to keep, a global position for a category, or the time before which messages are deleted, such as 2026-01-01T00:00:00Z, or 8760h for that long ago", func(given string) error {
			position, err := strconv.ParseInt(given, 10, 64)
			if err == nil {
				d.Before = position
				return nil
			}
			if d.BeforeTime, err = parseTime(given); err != nil {
				return errors.New("want a position, a time such as 2026-01-01T00:00:00Z, or a duration such as 8760h")
			}
			return nil
		})
		fs.BoolVar(&d.yes, "yes", false, "delete without asking")
		fs.BoolVar(&d.dryRun, "dry-run", false, "print how many messages would be deleted")
		return d.run
	},
}

// deleting is the options of delete.
type deleting struct {
	archive.Old

	yes, dryRun bool
	keptFor     string // the consumer that needs messages from KeepFrom on
}

func (d *deleting) run(ctx context.Context, a *app, args []string) error {
	if _, err := exactly(args); err != nil {
		return err
	}
	switch {
	case (d.Stream == "") == (d.Category == ""):
		return usage("want either -stream or -category")
	case d.Before < 1 && d.BeforeTime.IsZero():
		return usage("want -before with a position, at least 1, or a time")
	case !d.yes && !d.dryRun && !isTerminal(a.stdin):
		return usage("-yes is missing, and there is no terminal on which to ask")
	}
	return a.withStore(ctx, func(s *mdb.Store) error {
		if err := d.keepForConsumers(ctx, s.Pool()); err != nil {
			return err
		}
		if !d.yes {
			n, err := archive.Count(ctx, s.Pool(), d.Old)
			switch {
			case err != nil:
				return err
			case n == 0:
				return d.nothing()
			case d.dryRun:
				return a.say("would delete %s of %s%s\n", counted(n, "message"), d.name(), d.kept())
			}
			if ok, err := unlessEnded(ctx, func() (bool, error) { return d.ask(a, n) }); err != nil || !ok {
				return errors.Join(err, a.say("nothing was deleted\n"))
			}
		}
		bar := a.progress()
		n, err := archive.Delete(ctx, s.Pool(), d.Old, func(deleted int64) { bar.show(-1, counted(deleted, "message")+" deleted") })
		bar.end()
		switch {
		case err != nil && n > 0:
			return fmt.Errorf("%w; before that, %s deleted", err, counted(n, "message"))
		case err != nil:
			return err
		case n == 0:
			return d.nothing()
		}
		return a.say("deleted %s of %s%s\n", counted(n, "message"), d.name(), d.kept())
	})
}

func (d *deleting) name() string { return printable(string(d.Stream) + string(d.Category)) }

// kept says what is kept for a consumer.
func (d *deleting) kept() string {
	if d.keptFor == "" || d.Category != "" && d.Before != 0 && d.Before <= d.KeepFrom {
		return ""
	}
	return fmt.Sprintf("; from global position %d on they are kept for the consumer %s", d.KeepFrom, printable(d.keptFor))
}

func (d *deleting) nothing() error {
	return nothing("no messages to delete in %s%s", d.name(), d.kept())
}

// ask asks the user on the terminal.
func (d *deleting) ask(a *app, n int64) (bool, error) {
	_, _ = fmt.Fprintf(a.stderr, "Delete %s of %s? There is no way back. [y/N] ", counted(n, "message"), d.name())
	answer, err := bufio.NewReader(a.stdin).ReadString('\n')
	if err != nil && answer == "" {
		return false, nil // the end of the input is no consent
	}
	return slices.Contains([]string{"y", "yes"}, strings.ToLower(strings.TrimSpace(answer))), nil
}
