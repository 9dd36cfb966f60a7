package main

import (
	"context"
	"errors"
	"flag"

	"github.com/google/uuid"

	"github.com/messagedb-go/messagedb/mdb"
)

var getCommand = command{
	name:  "get",
	args:  []string{"ID"},
	short: "print the message with an ID",
	long: `Prints the message with an ID, in the format of read. It exits with 4 if there is none. It
needs the privilege to read the table, which the role message_store has.`,
	examples: `mdb get 5b3c0e0a-1d6f-4c7e-9a2b-8f4e6d1c0a9b
mdb get -json 5b3c0e0a-1d6f-4c7e-9a2b-8f4e6d1c0a9b`,
	setup: func(fs *flag.FlagSet) action {
		asJSON := fs.Bool("json", false, "print a line of JSON")
		return func(ctx context.Context, a *app, args []string) error {
			args, err := exactly(args, "ID")
			if err != nil {
				return err
			}
			id, err := uuid.Parse(args[0])
			if err != nil {
				return usage("ID: want the UUID of a message, got %q", args[0])
			}
			return a.withStore(ctx, func(s *mdb.Store) error {
				m, err := s.GetMessage(ctx, id)
				if errors.Is(err, mdb.ErrNoMessage) {
					return nothing("no message found with the ID %s", id)
				}
				if err != nil {
					return err
				}
				return a.printer(*asJSON).message(m)
			})
		}
	},
}
