# Waits until its owner closes standard input, or ends, however it ends. Then kills all
# processes that work in the folder or below it, and removes it:
#
#	sh -c "$(cat watchdog.sh)" watchdog FOLDER
#
# Run it as the user of these processes.
folder=$1

# Only the owner's end ends this script.
trap '' PIPE HUP INT TERM
cat >/dev/null

found=yes
while [ -n "$found" ]; do
	found=
	for process in /proc/[0-9]*; do
		case $(readlink "$process/cwd") in
		"$folder" | "$folder"/*)
			found=yes
			kill -KILL "${process#/proc/}"
			;;
		esac
	done 2>/dev/null
done
rm -rf "$folder"
