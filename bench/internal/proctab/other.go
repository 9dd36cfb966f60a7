//go:build !linux

// Package proctab tells what a server's processes have cost, from the process table.
package proctab

import "time"

// CPU is not known here.
func CPU(int) time.Duration { return 0 }
