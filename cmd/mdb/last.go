package main

import (
	"context"
	"errors"
	"flag"

	"github.com/messagedb-go/messagedb/mdb"
)

var lastCommand = command{
	name:  "last",
	args:  []string{"STREAM"},
	short: "print the last message of a stream",
	long: `Prints the last message of a stream, or the last one of a type, in the format of read.
It exits with 4 if there is none.`,
	examples: `mdb last account-123
mdb last -type Deposited -json account-123`,
	setup: func(fs *flag.FlagSet) action {
		typ := fs.String("type", "", "print the last message of this `TYPE`; needs Message DB 1.3.0")
		asJSON := fs.Bool("json", false, "print a line of JSON")
		return func(ctx context.Context, a *app, args []string) error {
			args, err := exactly(args, "STREAM")
			if err != nil {
				return err
			}
			stream, err := name(args[0])
			if err != nil {
				return err
			}
			var opts []mdb.LastMessageOption
			if *typ != "" {
				opts = append(opts, mdb.OfType(*typ))
			}
			return a.withStore(ctx, func(s *mdb.Store) error {
				m, err := s.GetLastStreamMessage(ctx, stream, opts...)
				if errors.Is(err, mdb.ErrNoMessage) {
					return noMessages(stream)
				}
				if err != nil {
					return err
				}
				return a.printer(*asJSON).message(m)
			})
		}
	},
}
