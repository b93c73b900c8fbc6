"""What `npgpt bench` measures, and against what.

functions   each twin against its NumPy reference, and against the machine's ceiling
engines     a model that can be timed: npgpt's backends, and the peers
worker      one engine in a process of its own, which waits while others are timed
rounds      all engines in turn, again and again; medians, spread, the roofline
run         a whole run, kept from the first result on
machine     what this machine is
report      the table and the figure
rules       what a rule of decoding costs a row of logits
decoding    beams against separate runs, drafts against greedy

Every number is a median of runs in which the engines took turns, so that a busy minute
of the machine meets all of them. Compiling is never inside a timing.
"""
