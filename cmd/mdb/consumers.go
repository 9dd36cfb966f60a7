package main

import (
	"context"
	"errors"
	"flag"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/messagedb-go/messagedb/mdb"
	"github.com/messagedb-go/messagedb/mdb/consumer"
)

var consumersCommand = command{
	name: "consumers",
	args: []string{
		"", "show CONSUMER", "parked CONSUMER", "pause CONSUMER", "resume CONSUMER",
		"seek CONSUMER beginning|end|POSITION", "seek -time TIME CONSUMER",
		"replay CONSUMER STREAM|KEY…", "replay -all CONSUMER", "skip CONSUMER STREAM",
		"resize CONSUMER PARTITIONS", "fork CONSUMER NAME", "rename CONSUMER NAME", "delete CONSUMER",
		"import-position CONSUMER STREAM",
	},
	words: consumersActions,
	short: "look at consumers and change them",
	long: `Looks at the consumers of the Go package mdb/consumer, and changes them. Processes that
run a consumer notice a change immediately if they listen for notifications, and
otherwise within two seconds. Each change is made completely or not at all.

Without an argument, it lists the consumers: the processes that run each one, the
messages that are not handled yet (PENDING), the age of the first of them (OLDEST), and
the number of keys, which are cardinal IDs, of which streams are parked.

  show    one consumer with its processes, and what they have
  parked  the streams that are parked, and why
  pause   call no handler until resume; calls that are running finish after it returns
  resume  end a pause
  seek    continue from the beginning, after the messages that exist (end), after a
          global position, or with the messages that were written at a time or later
  replay  replay parked streams immediately, all of a key, or all
  skip    leave out the message at which a stream is parked
  resize  change the number of partitions. Unless that is a multiple of the present
          one, the processes stop until all partitions have handled the same messages;
          interrupt the command to let them continue without the change
  fork    create a consumer that continues where this one is
  rename  give a consumer that no process runs another name
  delete  delete a consumer that no process runs, its progress, and what is parked
  import-position
          create a consumer that continues where one with a position stream is, such as
          one of Eventide; stop the processes that run that one first

It exits with 4 if there is no such consumer, and if nothing is parked, replayed or
listed. With -json, list, show, parked and seek print lines of JSON with the fields of
the Go types Status, Details, ParkedStream and Sought.`,
	examples: `mdb consumers
mdb consumers show -partitions mailer
mdb consumers pause -because 'the provider is down' mailer
mdb consumers seek -dry-run mailer beginning
mdb consumers seek -time 2026-11-01T00:00Z -category signup mailer
mdb consumers parked -json mailer
mdb consumers replay mailer signup-77
mdb consumers replay -all -limit 50 mailer
mdb consumers skip -at 3 mailer signup-77
mdb consumers resize mailer 128
mdb consumers fork balances balances:v2
mdb consumers import-position mailer signup:position-mailer`,
	setup: func(fs *flag.FlagSet) action {
		var c consumersCall
		c.declare(fs)
		return func(ctx context.Context, a *app, args []string) error {
			c.app = a
			name := list
			if len(args) > 0 {
				name, args = args[0], args[1:]
			}
			all := c.actions()
			i := slices.IndexFunc(all, func(o operation) bool { return o.name == name })
			if i < 0 {
				return usage("want %s, got %q", strings.Join(names(all[1:]), ", "), printable(name))
			}
			if err := all[i].check(fs, all, args); err != nil {
				return err
			}
			return a.withStore(ctx, func(s *mdb.Store) error {
				return explainConsumer(all[i].do(ctx, consumer.Admin(s.Pool()), args))
			})
		}
	},
}

// list is the name of the operation without an argument.
const list = "list"

// An operation is what mdb consumers does, by its first argument.
type operation struct {
	name    string
	args    []string // the names of its other arguments; the last one can be repeated if it ends with …
	options []string // that it accepts
	ready   func(args []string) error
	do      func(ctx context.Context, o *consumer.Operator, args []string) error
}

// consumersCall is the options of mdb consumers.
type consumersCall struct {
	*app

	json, partitions, dryRun, keepParked, all, waiting, force bool

	because    string
	time       *time.Time
	categories []mdb.Category
	limit      int64
	at         *int64
	to         consumer.Target
	number     int
}

func (c *consumersCall) declare(fs *flag.FlagSet) {
	fs.BoolVar(&c.json, "json", false, "list, show, parked, seek: print lines of JSON")
	fs.BoolVar(&c.partitions, "partitions", false, "show: also print a table of the partitions, which JSON always contains")
	fs.StringVar(&c.because, "because", "", "pause: the reason, a `TEXT` for other operators")
	fs.Func("time", "seek: continue with the messages that were written at this `TIME` or later, such as 2026-11-01T00:00Z", func(given string) error {
		for _, layout := range []string{time.RFC3339, "2006-01-02T15:04Z07:00"} {
			if t, err := time.Parse(layout, given); err == nil {
				c.time = &t
				return nil
			}
		}
		return errors.New("want a time with a time zone, such as 2026-11-01T00:00Z")
	})
	fs.Func("category", "seek: only in this `CATEGORY`; can be repeated", func(given string) error {
		c.categories = append(c.categories, mdb.Category(given))
		return nil
	})
	fs.BoolVar(&c.keepParked, "keep-parked", false, "seek: keep what is parked")
	fs.BoolVar(&c.dryRun, "dry-run", false, "seek, skip, fork, rename, delete, import-position: only print what would change, or why it would fail")
	fs.BoolVar(&c.all, "all", false, "replay: all parked streams")
	fs.Func("limit", "replay: at most `N` keys, those that were parked first", func(given string) (err error) {
		if c.limit, err = strconv.ParseInt(given, 10, 64); err != nil || c.limit < 1 {
			return errors.New("want a number, at least 1")
		}
		return nil
	})
	numberFlag(fs, "at", "skip: fail unless the stream is parked at this `POSITION`", func(n int64) { c.at = &n })
	fs.BoolVar(&c.waiting, "waiting", false, "skip: also the messages that wait for the parked one")
	fs.BoolVar(&c.force, "force", false, "rename, delete: although processes run the consumer")
}

func (c *consumersCall) actions() []operation {
	return []operation{
		{name: list, options: []string{"json"}, do: c.list},
		{name: "show", args: []string{"CONSUMER"}, options: []string{"json", "partitions"}, do: c.show},
		{name: "parked", args: []string{"CONSUMER"}, options: []string{"json"}, do: c.parked},
		{name: "pause", args: []string{"CONSUMER"}, options: []string{"because"}, do: c.pause},
		{name: "resume", args: []string{"CONSUMER"}, do: c.resume},
		{name: "seek", args: []string{"CONSUMER", "TARGET"}, options: []string{"json", "time", "category", "keep-parked", "dry-run"}, ready: c.target, do: c.seek},
		{name: "replay", args: []string{"CONSUMER", "STREAM|KEY…"}, options: []string{"all", "limit"}, ready: c.selected, do: c.replay},
		{name: "skip", args: []string{"CONSUMER", "STREAM"}, options: []string{"at", "waiting", "dry-run"}, do: c.skip},
		{name: "resize", args: []string{"CONSUMER", "PARTITIONS"}, ready: c.size, do: c.resize},
		{name: "fork", args: []string{"CONSUMER", "NAME"}, options: []string{"dry-run"}, do: c.fork},
		{name: "rename", args: []string{"CONSUMER", "NAME"}, options: []string{"force", "dry-run"}, do: c.rename},
		{name: "delete", args: []string{"CONSUMER"}, options: []string{"force", "dry-run"}, do: c.delete},
		{name: "import-position", args: []string{"CONSUMER", "STREAM"}, options: []string{"dry-run"}, do: c.importPosition},
	}
}

func names(all []operation) []string {
	var names []string
	for _, o := range all {
		names = append(names, o.name)
	}
	return names
}

// check checks the arguments and that the options that are given are those of the operation.
func (o *operation) check(fs *flag.FlagSet, all []operation, args []string) (err error) {
	fs.Visit(func(f *flag.Flag) {
		var accepting []string
		for _, other := range all {
			if slices.Contains(other.options, f.Name) {
				accepting = append(accepting, other.name)
			}
		}
		if err == nil && len(accepting) > 0 && !slices.Contains(accepting, o.name) {
			err = usage("-%s is for %s, got %s", f.Name, strings.Join(accepting, ", "), o.name)
		}
	})
	if err != nil {
		return err
	}
	for _, arg := range args {
		if _, err := name(arg); err != nil {
			return err
		}
	}
	if o.ready != nil {
		return o.ready(args)
	}
	_, err = exactly(args, o.args...)
	return err
}

// target checks the arguments of seek.
func (c *consumersCall) target(args []string) error {
	if c.time != nil {
		c.to = consumer.ToTime(*c.time)
		_, err := exactly(args, "CONSUMER")
		return err
	}
	if _, err := exactly(args, "CONSUMER", "beginning|end|POSITION"); err != nil {
		return err
	}
	switch to := args[1]; to {
	case "beginning":
		c.to = consumer.ToBeginning()
	case "end":
		c.to = consumer.ToEnd()
	default:
		position, err := strconv.ParseInt(to, 10, 64)
		if err != nil {
			return usage("want beginning, end or a global position, got %q", printable(to))
		}
		c.to = consumer.ToPosition(position)
	}
	return nil
}

// selected checks the arguments of replay.
func (c *consumersCall) selected(args []string) error {
	switch {
	case c.all:
		_, err := exactly(args, "CONSUMER")
		return err
	case c.limit > 0:
		return usage("-limit needs -all")
	case len(args) < 2:
		return usage("want CONSUMER STREAM|KEY… or -all CONSUMER, got %s", listed(args))
	}
	return nil
}

// size checks the arguments of resize.
func (c *consumersCall) size(args []string) (err error) {
	if _, err := exactly(args, "CONSUMER", "PARTITIONS"); err != nil {
		return err
	}
	if c.number, err = strconv.Atoi(args[1]); err != nil {
		return usage("want a number of partitions, got %q", printable(args[1]))
	}
	return nil
}

// explainConsumer turns an error of the library into one of the command.
func explainConsumer(err error) error {
	if missing := (*consumer.NotFoundError)(nil); errors.As(err, &missing) {
		return nothing("there is no consumer %s", printable(missing.Consumer))
	}
	if conflict := (*consumer.ConflictError)(nil); errors.As(err, &conflict) {
		return errors.New(printable(conflict.Consumer) + ": " + conflict.Problem + "; nothing was changed")
	}
	return err
}

// consumersActions returns the names of what consumers does.
func consumersActions() (names []string) {
	for _, o := range new(consumersCall).actions() {
		names = append(names, o.name)
	}
	return names
}
