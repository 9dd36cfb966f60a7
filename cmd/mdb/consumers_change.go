package main

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/messagedb-go/messagedb/mdb"
	"github.com/messagedb-go/messagedb/mdb/consumer"
)

// options returns the options that are given.
func (c *consumersCall) options() (opts []consumer.AdminOption) {
	if c.dryRun {
		opts = append(opts, consumer.DryRun())
	}
	if c.force {
		opts = append(opts, consumer.Force())
	}
	if c.keepParked {
		opts = append(opts, consumer.KeepParked())
	}
	for _, category := range c.categories {
		opts = append(opts, consumer.InCategory(category))
	}
	if c.at != nil {
		opts = append(opts, consumer.AtPosition(*c.at))
	}
	if c.waiting {
		opts = append(opts, consumer.AndWaiting())
	}
	return opts
}

// done prints what a change has done, or would do.
func (c *consumersCall) done(name, done, would string) error {
	if c.dryRun {
		done = would
	}
	return c.say("%s %s\n", printable(name), done)
}

func (c *consumersCall) pause(ctx context.Context, o *consumer.Operator, args []string) error {
	if err := o.Pause(ctx, args[0], c.because); err != nil {
		return err
	}
	return c.done(args[0], "is paused", "")
}

func (c *consumersCall) resume(ctx context.Context, o *consumer.Operator, args []string) error {
	if err := o.Resume(ctx, args[0]); err != nil {
		return err
	}
	return c.done(args[0], "is not paused", "")
}

func (c *consumersCall) seek(ctx context.Context, o *consumer.Operator, args []string) error {
	changed, err := o.Seek(ctx, args[0], c.to, c.options()...)
	switch {
	case err != nil:
		return err
	case c.json:
		return printLines(c.app, changed)
	}
	if err := c.done(args[0], "continues after these positions", "would continue after these positions"); err != nil {
		return err
	}
	var b strings.Builder
	b.WriteString("CATEGORY\tPOSITION\tBEFORE\tUNPARKED\n")
	for _, s := range changed {
		before := fmt.Sprint(s.Lowest)
		if s.Highest > s.Lowest {
			before += fmt.Sprintf(" to %d", s.Highest)
		}
		fmt.Fprintf(&b, "%s\t%d\t%s\t%d\n", printable(string(s.Category)), s.Position, before, s.Unparked)
	}
	return c.say("%s", aligned(b.String()))
}

// replay selects the streams, which the library replays.
func (c *consumersCall) replay(ctx context.Context, o *consumer.Operator, args []string) error {
	parked, err := o.Parked(ctx, args[0])
	if err != nil {
		return err
	}
	type key struct {
		category mdb.Category
		key      string
	}
	var (
		keys    []key
		streams []mdb.StreamName
	)
	for _, p := range parked { // the first one that was parked comes first
		if k := (key{p.Category, p.Key}); !slices.Contains(keys, k) && (c.limit == 0 || int64(len(keys)) < c.limit) {
			keys = append(keys, k)
		} else if !slices.Contains(keys, k) {
			continue
		}
		if c.all || slices.Contains(args[1:], string(p.Stream)) || slices.Contains(args[1:], p.Key) {
			streams = append(streams, p.Stream)
		}
	}
	for _, wanted := range args[1:] {
		if !slices.ContainsFunc(parked, func(p consumer.ParkedStream) bool { return wanted == string(p.Stream) || wanted == p.Key }) {
			return nothing("%s is not parked, nothing was changed", printable(wanted))
		}
	}
	if len(streams) == 0 {
		return nothing("nothing of %s is parked", printable(args[0]))
	}
	n, err := o.Replay(ctx, args[0], streams...)
	if err != nil {
		return err
	}
	return c.done(args[0], fmt.Sprintf("replays %s", counted(n, "parked stream")), "")
}

func (c *consumersCall) skip(ctx context.Context, o *consumer.Operator, args []string) error {
	if err := o.Skip(ctx, args[0], mdb.StreamName(args[1]), c.options()...); err != nil {
		return err
	}
	what := "the message"
	if c.at != nil {
		what += fmt.Sprintf(" at position %d", *c.at)
	}
	what += " of " + printable(args[1])
	if c.waiting {
		what += " and those that wait for it"
	}
	return c.done(args[0], "skips "+what, "would skip "+what)
}

func (c *consumersCall) resize(ctx context.Context, o *consumer.Operator, args []string) error {
	if err := o.Resize(ctx, args[0], c.number); err != nil {
		if ctx.Err() != nil {
			c.complain(err) // it says what it has waited for
		}
		return err
	}
	return c.done(args[0], "has "+counted(int64(c.number), "partition"), "")
}

func (c *consumersCall) fork(ctx context.Context, o *consumer.Operator, args []string) error {
	if err := o.Fork(ctx, args[0], args[1], c.options()...); err != nil {
		return err
	}
	other := printable(args[1])
	return c.done(args[0], "is forked to "+other, "would be forked to "+other)
}

func (c *consumersCall) rename(ctx context.Context, o *consumer.Operator, args []string) error {
	if err := o.Rename(ctx, args[0], args[1], c.options()...); err != nil {
		return err
	}
	other := printable(args[1])
	return c.done(args[0], "is renamed to "+other, "would be renamed to "+other)
}

func (c *consumersCall) delete(ctx context.Context, o *consumer.Operator, args []string) error {
	if err := o.Delete(ctx, args[0], c.options()...); err != nil {
		return err
	}
	return c.done(args[0], "is deleted", "would be deleted")
}

func (c *consumersCall) importPosition(ctx context.Context, o *consumer.Operator, args []string) error {
	position, err := o.ImportPosition(ctx, args[0], mdb.StreamName(args[1]), c.options()...)
	if err != nil {
		return err
	}
	where := fmt.Sprintf("after global position %d", position)
	return c.done(args[0], "is created, and continues "+where, "would be created, and continue "+where)
}

// counted returns a number of things.
func counted(n int64, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}
