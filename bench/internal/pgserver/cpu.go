//go:build linux

package pgserver

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// tick is the unit of the process table.
const tick = 10 * time.Millisecond

// CPU returns the CPU time of a postmaster and its children, including those that have
// ended.
func CPU(postmaster int) time.Duration {
	ticks := 0
	files, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			continue // it has ended
		}
		// The second field is a name in parentheses, which may contain anything.
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
	return time.Duration(ticks) * tick
}
