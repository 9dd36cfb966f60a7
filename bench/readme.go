package main

import (
	"fmt"
	"strings"
	"time"
)

// readmeTable is the part of the report that the README has.
func readmeTable(folder string, samples []sample) string {
	columns := []struct{ name, rival string }{
		{"mdb", proceduresName},
		{"mdb, direct SQL", directName},
		{"pgx", pgxName},
		{"database/sql, prepared once", stdlibOnce},
		{"database/sql, Prepare per call", stdlibPerCall},
		{"floor", floorName},
	}
	var w strings.Builder
	w.WriteString("|")
	for _, c := range columns {
		w.WriteString(" | " + c.name)
	}
	w.WriteString(" |\n|---" + strings.Repeat("|---:", len(columns)) + "|\n")
	for _, name := range []string{
		"Write 1 message",
		"Write 100 messages to one stream, atomically",
		"Read an empty page of a category",
		"Read a page of 10 messages of a category",
		"Read a page of 1,000 messages of a category",
		"Read the last message of a stream",
	} {
		fmt.Fprintf(&w, "| %s", name)
		for _, c := range columns {
			times := perRound(samples, name, c.rival, nanoseconds)
			if len(times) == 0 {
				return "" // not everything was run
			}
			fmt.Fprintf(&w, " | %s", duration(summary(times).Center))
		}
		w.WriteString(" |\n")
	}
	fmt.Fprintf(&w, "\n%s, server and client on %s; the floor is pgconn with the rows unread.\n[Everything](bench/results/%s/report.md), also what we lose, and [how it grows](bench/results/%[3]s/growth.md).\n",
		time.Now().Format("2 January 2006"), shortMachine(), folder)
	return w.String()
}
