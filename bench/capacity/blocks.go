package main

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/messagedb-go/messagedb/bench/internal/figures"
)

func (b *bench) messagesBlock(r results) string {
	var w strings.Builder
	row := func(name string, random, ordered float64) {
		fmt.Fprintf(&w, "| %s | %s | %s |\n", name, figures.Rounded(random), figures.Rounded(ordered))
	}
	w.WriteString("| Bytes a message | random IDs | UUIDs of version 7 |\n|---|---:|---:|\n")
	for i, name := range relations {
		row("`"+name+"`", r.random.relations[i], r.ordered.relations[i])
	}
	row("**together**", r.random.bytes(), r.ordered.bytes())
	row("WAL of bulk inserts", r.random.wal, r.ordered.wal)
	row("WAL of `VACUUM (FREEZE)`", r.random.vacuumWAL, r.ordered.vacuumWAL)
	fmt.Fprintf(&w, "| WAL of single writes in a warm store | – | %s |\n", figures.Rounded(r.ways[slices.IndexFunc(ways, named(spreadName))].median().wal))
	fmt.Fprintf(&w, "| WAL of single writes directly after a checkpoint | – | %s |\n", figures.Rounded(r.afterCheckpoint))
	fmt.Fprintf(&w, "\nA message has a name of %d bytes, and %d bytes of JSON. The table has %s messages, %d in each stream. `VACUUM (FREEZE)` of it took %.2f seconds, which is %s messages a second, and a second one, of the same pages, %.2f seconds. ",
		len(streamOf("account", 0)), len(data)+len(metadata), figures.Rounded(float64(b.messages)), perStream, r.ordered.vacuum.Seconds(), figures.Rounded(float64(b.messages)/r.ordered.vacuum.Seconds()), r.ordered.again.Seconds())
	return w.String()
}

func named(name string) func(way) bool { return func(w way) bool { return w.name == name } }

// ratio returns how many times as fast a series is as the first one, with its interval.
func ratio(table []series, i int) string {
	if i == 0 {
		return "1"
	}
	r := figures.Ratio(table[i].values(rate), table[0].values(rate))
	if math.IsInf(r.Hi, 1) { // there are too few rounds for an interval
		return fmt.Sprintf("%.2f", r.Center)
	}
	return fmt.Sprintf("%.2f (%.2f–%.2f)", r.Center, r.Lo, r.Hi)
}

func (b *bench) waysBlock(r results) string {
	var w strings.Builder
	w.WriteString("| Way | messages/s | ratio | ratio, commits delayed by 2 ms | server CPU a message | WAL a message | transaction IDs a message |\n|---|---:|---:|---:|---:|---:|---:|\n")
	for i, way := range ways {
		u := r.ways[i].median()
		fmt.Fprintf(&w, "| %s | %s | %s | %s | %s | %s B | %.2f |\n", way.name, figures.Rounded(u.rate), ratio(r.ways, i), ratio(r.slow, i), micros(u.cpu), figures.Rounded(u.wal), u.xids)
	}
	fmt.Fprintf(&w, "\nMedians of %d rounds, in each of which every way had a turn of %v. Ratios are of the messages a second to those of the first row, round by round, with 95 %% intervals. ", b.rounds, b.turn)
	return w.String()
}

func (b *bench) shardsBlock(r results) string {
	var w strings.Builder
	w.WriteString("| Writers | Messages a call | Shards | Route | server CPU a message | ratio | messages/s |\n|---:|---:|---:|---|---:|---:|---:|\n")
	cpu := func(u used) float64 { return u.cpu }
	one := 0
	proxied := false
	for i, route := range r.routes {
		if first := r.routes[one]; route.writers != first.writers || route.batch != first.batch {
			one = i
		}
		proxied = proxied || route.proxied
		u, times := r.shards[i].median(), "1"
		if i != one {
			times = fmt.Sprintf("%.2f", figures.Ratio(r.shards[i].values(cpu), r.shards[one].values(cpu)).Center)
		}
		fmt.Fprintf(&w, "| %d | %d | %d | %s | %s | %s | %s |\n", route.writers, route.batch, route.shards, route.name, micros(u.cpu), times, figures.Rounded(u.rate))
	}
	w.WriteString("\nCPU is that of all processes of the shards and of the proxy. The ratio is to one shard, with as many writers and messages a call, round by round. All servers share the machine, so the messages a second say nothing about servers of their own. ")
	if !proxied {
		w.WriteString("PL/Proxy is not installed here, so writes through it were not measured. ")
	}
	return w.String()
}

// planOf computes the plan from the results.
func (b *bench) planOf(r results) (string, error) {
	var all []planned
	for _, p := range []struct{ name, way string }{{"single writes", spreadName}, {"batches of 20", twentyName}, {"batches of 100", hundredName}} {
		used := r.ways[slices.IndexFunc(ways, named(p.way))].median()
		if used.cpu == 0 {
			return "", errors.New("the turns are too short to measure CPU time: set -turn")
		}
		all = append(all, planned{p.name, used})
	}
	return b.target.planBlock(all, r.ordered, b.messages), nil
}
