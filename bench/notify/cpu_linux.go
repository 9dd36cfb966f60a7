package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/messagedb-go/messagedb/mdb"
)

// serverCPU adds up the seconds of CPU time of the server's processes, those that
// have ended included, from the process table.
func serverCPU(ctx context.Context, store *mdb.Store) float64 {
	var postmaster int
	const pid = "SELECT split_part(pg_read_file('postmaster.pid'), E'\\n', 1)::int"
	if err := store.Pool().QueryRow(ctx, pid).Scan(&postmaster); err != nil {
		return 0
	}
	ticks := 0
	files, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			continue // it has ended
		}
		// The second field is a name in parentheses, which may hold anything.
		fields := strings.Fields(string(data[strings.LastIndexByte(string(data), ')')+1:]))
		parent, _ := strconv.Atoi(fields[1])
		own := strings.HasPrefix(file, fmt.Sprintf("/proc/%d/", postmaster))
		if parent != postmaster && !own {
			continue
		}
		last := 13 // utime, stime
		if own {
			last = 15 // and those of its children that have ended
		}
		for _, field := range fields[11:last] {
			n, _ := strconv.Atoi(field)
			ticks += n
		}
	}
	return float64(ticks) / 100
}
