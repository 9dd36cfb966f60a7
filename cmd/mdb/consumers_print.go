package main

import (
	"bufio"
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/messagedb-go/messagedb/mdb"
	"github.com/messagedb-go/messagedb/mdb/consumer"
)

func (c *consumersCall) list(ctx context.Context, o *consumer.Operator, _ []string) error {
	found, err := o.List(ctx)
	switch {
	case err != nil:
		return err
	case len(found) == 0:
		return nothing("no consumers found")
	case c.json:
		return printLines(c.app, found)
	}
	return c.statuses(found...)
}

// statuses prints a table with a line for each consumer.
func (c *consumersCall) statuses(list ...consumer.Status) error {
	var b strings.Builder
	b.WriteString("CONSUMER\tCATEGORIES\tPROCESSES\tPARTITIONS\tPENDING\tOLDEST\tPARKED\tSTATE\n")
	for i := range list {
		s := &list[i]
		fmt.Fprintf(&b, "%s\t%s\t%d\t%d\t%s\t%s\t%d\t%s\n", printable(s.Consumer), categories(s.Categories), s.Members, s.Partitions,
			pending(s.Pending, s.PendingMore), age(s.At, s.Oldest), s.Parked, stateOf(s))
	}
	return c.say("%s", aligned(b.String()))
}

// stateOf says in a few words what a consumer does.
func stateOf(s *consumer.Status) string {
	partitions := make(map[consumer.ObstacleKind]int)
	for i := range s.Stuck {
		partitions[s.Stuck[i].Kind] += max(len(s.Stuck[i].Partitions), 1)
	}
	still, unowned := partitions[consumer.ObstacleStill], partitions[consumer.ObstacleUnowned]
	switch {
	case s.Paused && s.Reason != "":
		return "paused: " + printable(s.Reason)
	case s.Paused:
		return "paused"
	case s.Members == 0:
		return "no process"
	case s.Barrier != nil:
		return "resizing"
	case partitions[consumer.ObstacleUnconfirmed] > 0:
		return "resized, waiting for calls"
	case still > 0 && partitions[consumer.ObstacleFull] > 0:
		return fmt.Sprintf("%d standing still: %d parked", still, s.Parked)
	case still > 0:
		return fmt.Sprintf("%d standing still", still)
	case unowned > 0:
		return fmt.Sprintf("%d without a process", unowned)
	case partitions[consumer.ObstacleUnread] > 0:
		return "a category without a process"
	case partitions[consumer.ObstacleFull] > 0:
		return "running, can park no more"
	}
	return "running"
}

func (c *consumersCall) show(ctx context.Context, o *consumer.Operator, args []string) error {
	d, err := o.Show(ctx, args[0])
	switch {
	case err != nil:
		return err
	case c.json:
		return printLines(c.app, []consumer.Details{d})
	}
	if err := c.statuses(d.Status); err != nil {
		return err
	}
	tables := []string{processes(&d), obstacles(&d), parkedKeys(&d)}
	if c.partitions {
		tables = append(tables, checkpoints(&d))
	}
	for _, table := range tables {
		if table == "" {
			continue
		}
		if err := c.say("\n%s", table); err != nil {
			return err
		}
	}
	return nil
}

// obstacles returns what the consumer is stuck with, or "".
func obstacles(d *consumer.Details) string {
	var b strings.Builder
	for i := range d.Stuck {
		fmt.Fprintf(&b, "stuck: %s\n", printable(d.Stuck[i].Text))
	}
	return b.String()
}

// parkedKeys returns a table with a line for each parked key, or "".
func parkedKeys(d *consumer.Details) string {
	if len(d.ParkedKeys) == 0 {
		return ""
	}
	var b strings.Builder
	b.WriteString("PARKED KEY\tSTREAM\tPOSITION\tSTREAMS\tMESSAGES\tATTEMPTS\tDUE\tERROR\n")
	for i := range d.ParkedKeys {
		k := &d.ParkedKeys[i]
		fmt.Fprintf(&b, "%s\t%s\t%d\t%d\t%d\t%d\t%s\t%s\n", dash(printable(k.Key)), printable(string(k.Stream)), k.Position, k.Streams, k.Messages, k.Attempts,
			timeOf(k.Due), dash(printable(k.Error)))
	}
	return aligned(b.String())
}

// processes returns a table with a line for each process.
func processes(d *consumer.Details) string {
	if len(d.Processes) == 0 {
		return ""
	}
	var b strings.Builder
	b.WriteString("INSTANCE\tPARTITIONS\tHEARTBEAT\tSTORED\tSTATE\tPROCESS\n")
	for i := range d.Processes {
		p := &d.Processes[i]
		state := "running"
		if !p.Alive {
			state = "its lease has ended"
		}
		fmt.Fprintf(&b, "%s\t%s\t%s\t%s\t%s\t%s\n", dash(printable(p.Instance)), ranges(p.Partitions), age(d.At, p.Seen), age(d.At, p.Stored), state, printable(p.Info))
	}
	return aligned(b.String())
}

// checkpoints returns a table with a line for each partition of a category.
func checkpoints(d *consumer.Details) string {
	names := make(map[uuid.UUID]string)
	for i := range d.Processes {
		names[d.Processes[i].ID] = printable(d.Processes[i].Info)
	}
	var b strings.Builder
	b.WriteString("CATEGORY\tPARTITION\tPOSITION\tPENDING\tOLDEST\tSTORED\tPROCESS\n")
	for i := range d.Checkpoints {
		p := &d.Checkpoints[i]
		fmt.Fprintf(&b, "%s\t%d\t%d\t%d\t%s\t%s\t%s\n", printable(string(p.Category)), p.Partition, p.Position, p.Pending, age(d.At, p.Oldest), age(d.At, p.Stored),
			dash(names[p.Member]))
	}
	return aligned(b.String())
}

func (c *consumersCall) parked(ctx context.Context, o *consumer.Operator, args []string) error {
	found, err := o.Parked(ctx, args[0])
	switch {
	case err != nil:
		return err
	case len(found) == 0:
		return nothing("nothing of %s is parked", printable(args[0]))
	case c.json:
		return printLines(c.app, found)
	}
	var b strings.Builder
	b.WriteString("STREAM\tPOSITION\tKEY\tATTEMPTS\tDUE\tERROR\n")
	for i := range found {
		p := &found[i]
		text := printable(p.Error)
		if first := slices.IndexFunc(found, func(o consumer.ParkedStream) bool {
			return o.Category == p.Category && o.Key == p.Key && o.Attempts > 0
		}); p.Attempts == 0 && first >= 0 {
			text = "waits for " + printable(string(found[first].Stream))
		}
		fmt.Fprintf(&b, "%s\t%d\t%s\t%d\t%s\t%s\n", printable(string(p.Stream)), p.Position, dash(printable(p.Key)), p.Attempts, timeOf(p.Due), dash(text))
	}
	return c.say("%s", aligned(b.String()))
}

// printLines prints each value as a line of JSON.
func printLines[T any](a *app, values []T) error {
	w := bufio.NewWriter(a.stdout)
	for i := range values {
		if err := printJSON(w, &values[i]); err != nil {
			return err
		}
	}
	return w.Flush()
}

func categories(names []mdb.Category) string {
	var texts []string
	for _, name := range names {
		texts = append(texts, printable(string(name)))
	}
	return dash(strings.Join(texts, ", "))
}

// pending returns a number of messages, of which there may be more.
func pending(n int64, more bool) string {
	if more {
		return fmt.Sprintf(">=%d", n)
	}
	return strconv.FormatInt(n, 10)
}

// age returns how long ago a time was, in the largest unit of which there are several.
func age(now, t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	d := max(now.Sub(t), 0)
	switch {
	case d < 2*time.Minute:
		return fmt.Sprintf("%ds", d/time.Second)
	case d < 2*time.Hour:
		return fmt.Sprintf("%dm", d/time.Minute)
	case d < 48*time.Hour:
		return fmt.Sprintf("%dh", d/time.Hour)
	}
	return fmt.Sprintf("%dd", d/(24*time.Hour))
}

// timeOf returns a time in seconds.
func timeOf(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return t.UTC().Format(time.RFC3339)
}

// ranges returns sorted numbers as ranges.
func ranges(numbers []int) string {
	var parts []string
	for i := 0; i < len(numbers); {
		last := i
		for last+1 < len(numbers) && numbers[last+1] == numbers[last]+1 {
			last++
		}
		part := strconv.Itoa(numbers[i])
		if last > i {
			part += "-" + strconv.Itoa(numbers[last])
		}
		parts = append(parts, part)
		i = last + 1
	}
	return dash(strings.Join(parts, ","))
}

// dash stands for an empty text in a table.
func dash(text string) string {
	if text == "" {
		return "-"
	}
	return text
}
