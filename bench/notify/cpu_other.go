//go:build !linux

package main

import (
	"context"

	"github.com/messagedb-go/messagedb/mdb"
)

// serverCPU is not known here.
func serverCPU(context.Context, *mdb.Store) float64 { return 0 }
