"""ReFrame check of the benchmark suite: reframe -c bench/examples/reframe_moesaic.py -r

Needs an executable moesaic in PATH, or --setvar=executable=/path/of/moesaic. Sanity: the suite verified all results.
Performance: the headline and its share of what the machine's limits allow; give references for your system.
"""
import os

import reframe as rfm
import reframe.utility.sanity as sn

DECKS = os.path.join(os.path.dirname(os.path.abspath(__file__)), '..', '..', 'inputs')


@rfm.simple_test
class MoesaicSuite(rfm.RunOnlyRegressionTest):
    """One rank per NUMA node; `ranks` says how many."""

    descr = 'moesaic bench suite'
    valid_systems = ['*']
    valid_prog_environs = ['*']
    executable = 'moesaic'
    deck = variable(str, value='bench-quick.cfg')
    ranks = variable(int, value=1)
    time_limit = '1h'
    keep_files = ['result.json']
    reference = {'*': {'tokens_per_second': (0, None, None, 'tokens/s'), 'floor': (0, None, None, 'percent')}}

    @run_before('run')
    def set_command(self):
        self.num_tasks = self.ranks
        self.executable_opts = ['bench', 'suite', os.path.join(DECKS, self.deck), '--output', 'result.json']

    @sanity_function
    def is_verified(self):
        return sn.assert_found(r'^FOM moesaic_tokens_per_second = ', self.stdout)

    @performance_function('tokens/s')
    def tokens_per_second(self):
        return sn.extractsingle(r'^FOM moesaic_tokens_per_second = (\S+)', self.stdout, 1, float)

    @performance_function('percent')
    def floor(self):
        return sn.extractsingle(r'^FOM moesaic_tokens_per_second_floor = (\S+)', self.stdout, 1, float)
