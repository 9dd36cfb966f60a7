package main

import (
	"context"
	"errors"
	"flag"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/messagedb-go/messagedb/mdb"
	"github.com/messagedb-go/messagedb/mdb/schema"
)

var notifyCommand = command{
	name:  "notify",
	args:  []string{"install|remove|status"},
	short: "install, remove or look at the NOTIFY trigger",
	long: `Installs or removes the trigger that wakes subscriptions, of which tail is one, when
something is written, or tells whether it is there and who waits for it. Without it
they poll. Installing and removing is for the owner of the table messages. status
exits with 4 if the trigger is missing or disabled.`,
	examples: `mdb notify install
mdb notify status`,
	setup: func(*flag.FlagSet) action {
		return func(ctx context.Context, a *app, args []string) error {
			do := map[string]func(context.Context, *mdb.Store) error{
				"install": func(ctx context.Context, s *mdb.Store) error {
					if err := schema.InstallNotify(ctx, s.Pool()); err != nil {
						return err
					}
					return a.say("the NOTIFY trigger is installed\n")
				},
				"remove": func(ctx context.Context, s *mdb.Store) error {
					if err := schema.UninstallNotify(ctx, s.Pool()); err != nil {
						return err
					}
					return a.say("the NOTIFY trigger is removed\n")
				},
				"status": a.notifyStatus,
			}
			if len(args) != 1 || do[args[0]] == nil {
				return usage("given %s, want install, remove or status", listed(args))
			}
			return a.withStore(ctx, func(s *mdb.Store) error { return do[args[0]](ctx, s) })
		}
	},
}

// notifyStatus asks the catalogue, and who shares keys that the trigger tries to
// take.
func (a *app) notifyStatus(ctx context.Context, s *mdb.Store) error {
	const trigger = `
SELECT t.tgenabled IN ('O', 'A')
FROM pg_catalog.pg_trigger AS t
WHERE t.tgname = 'message_store_notify' AND t.tgrelid = pg_catalog.to_regclass('message_store.messages')`
	const waiting = `
SELECT count(DISTINCT pid), count(DISTINCT objid)
FROM pg_catalog.pg_locks
WHERE locktype = 'advisory' AND classid = 1296319044 AND objsubid = 2 AND mode = 'ShareLock' AND granted
	AND database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database())`

	var enabled bool
	err := s.Pool().QueryRow(ctx, trigger).Scan(&enabled)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return nothing("the NOTIFY trigger is not installed")
	case err != nil:
		return fmt.Errorf("look for the NOTIFY trigger: %w", err)
	case !enabled:
		return nothing("the NOTIFY trigger is disabled")
	}
	var stores, categories int
	if err := s.Pool().QueryRow(ctx, waiting).Scan(&stores, &categories); err != nil {
		return fmt.Errorf("look who waits for the NOTIFY trigger: %w", err)
	}
	return a.say("the NOTIFY trigger is installed\nconnections that wait for it: %d, for categories: %d\n", stores, categories)
}
