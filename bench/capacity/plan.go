package main

import (
	"fmt"
	"math"
	"strings"
	"time"

	"github.com/messagedb-go/messagedb/bench/internal/figures"
)

// A target is what the plan is computed for.
type target struct {
	rate     float64 // messages a second
	messages float64 // kept
	cores    int     // of a server
	spare    float64 // the part of its CPU that is not planned for
	disk     float64 // bytes of messages on a server
}

// The settings of PostgreSQL and the limit that decide how often a table has to be frozen.
const (
	wraparound   = 1 << 31
	freezeAge    = 200e6 // the default of autovacuum_freeze_max_age
	freezeAgeTop = 1e9
)

// A planned is a way in which the target's messages are written.
type planned struct {
	name string
	used
}

// A need is what the target takes if its messages are written in a way.
type need struct {
	server float64 // messages a second
	shards int
	wal    float64 // bytes a second of all shards
	xids   float64 // a second, of a shard that has its share
	vacuum float64 // of the time of one process, to vacuum what a shard gets
}

// needs computes what the target takes on servers with the CPUs of this machine.
func (t target) needs(p planned, v volume, messages int) need {
	n := need{server: float64(t.cores) * (1 - t.spare) / p.cpu, wal: t.rate * p.wal}
	n.shards = int(math.Ceil(t.rate / n.server))
	share := t.rate / float64(n.shards)
	n.xids = share * p.xids
	n.vacuum = share * v.vacuum.Seconds() / float64(messages)
	return n
}

// planBlock returns the table of what the target takes.
func (t target) planBlock(all []planned, v volume, messages int) string {
	var w strings.Builder
	w.WriteString("| |")
	needs := make([]need, len(all))
	for i, p := range all {
		fmt.Fprintf(&w, " %s |", p.name)
		needs[i] = t.needs(p, v, messages)
	}
	w.WriteString("\n|---|" + strings.Repeat("---:|", len(all)) + "\n")
	row := func(name string, f func(i int, n need) string) {
		fmt.Fprintf(&w, "| %s |", name)
		for i, n := range needs {
			fmt.Fprintf(&w, " %s |", f(i, n))
		}
		w.WriteString("\n")
	}
	same := func(text string) func(int, need) string {
		return func(int, need) string { return text }
	}
	bytes, day := v.bytes(), t.rate*86400
	row("server CPU a message", func(i int, _ need) string { return micros(all[i].cpu) })
	row(fmt.Sprintf("messages a second of a server with %d cores, with %.0f %% of them to spare", t.cores, 100*t.spare), func(_ int, n need) string { return figures.Rounded(n.server) })
	row(fmt.Sprintf("**shards for %s messages a second**, without standbys", figures.Rounded(t.rate)), func(_ int, n need) string { return fmt.Sprint(n.shards) })
	row("WAL of all shards", func(_ int, n need) string { return size(n.wal) + "/s" })
	row("WAL of a shard", func(_ int, n need) string { return size(n.wal/float64(n.shards)) + "/s" })
	row("disk for the messages of a day, one copy", same(size(day*bytes)))
	row(fmt.Sprintf("time until there are %s messages", power(t.messages)), same(span(t.messages/t.rate)))
	row(fmt.Sprintf("**disk for %s messages**, one copy", power(t.messages)), same(size(t.messages*bytes)))
	row(fmt.Sprintf("**shards that hold them**, with %s each", size(t.disk)), same(fmt.Sprint(int(math.Ceil(t.messages*bytes/t.disk)))))
	row("transaction IDs a second of a shard", func(_ int, n need) string { return figures.Rounded(n.xids) })
	row("a vacuum against wraparound every, with `autovacuum_freeze_max_age` at its default of 200 million", func(_ int, n need) string { return span(freezeAge / n.xids) })
	row("the same with 1 billion", func(_ int, n need) string { return span(freezeAgeTop / n.xids) })
	row("time to use 2³¹ transaction IDs", func(_ int, n need) string { return span(wraparound / n.xids) })
	row("part of the time of one process that `VACUUM (FREEZE)` takes, if it looks at new pages only", func(_ int, n need) string { return fmt.Sprintf("%.0f %%", 100*n.vacuum) })
	w.WriteString("\nComputed from the tables above, for servers whose CPUs are as fast as that of the measurement, whose disks are no limit, and whose categories are evenly spread. ")
	return w.String()
}

func micros(seconds float64) string { return figures.Rounded(seconds*1e6) + " µs" }

// size returns bytes in units of a thousand.
func size(bytes float64) string {
	for _, unit := range []string{"B", "kB", "MB", "GB", "TB"} {
		if bytes < 1000 {
			return digits(bytes) + " " + unit
		}
		bytes /= 1000
	}
	return digits(bytes) + " PB"
}

// span returns a time in its largest unit.
func span(seconds float64) string {
	switch d := time.Duration(seconds * float64(time.Second)); {
	case seconds >= 2*365*86400:
		return digits(seconds/365/86400) + " years"
	case d >= 48*time.Hour:
		return digits(seconds/86400) + " days"
	case d >= 2*time.Hour:
		return digits(d.Hours()) + " hours"
	case d >= 2*time.Minute:
		return digits(d.Minutes()) + " minutes"
	}
	return digits(seconds) + " seconds"
}

// digits returns a number with two digits that count, or more before the point.
func digits(value float64) string {
	if value < 10 {
		return fmt.Sprintf("%.1f", value)
	}
	return fmt.Sprintf("%.0f", value)
}

// power returns a power of ten as such, and another number in words of figures.
func power(value float64) string {
	exponent := math.Log10(value)
	if exponent != math.Trunc(exponent) {
		return figures.Rounded(value)
	}
	return "10" + strings.Map(func(r rune) rune { return []rune("⁰¹²³⁴⁵⁶⁷⁸⁹")[r-'0'] }, fmt.Sprint(int(exponent)))
}
