{
  'targets': [
    {
      'target_name': 'isthmus',
      'conditions': [
        ['OS=="linux"', {
          'sources': [
            'native/addon.cc',
            'native/arguments.cc',
            'native/doorbells.cc',
            'native/errors.cc',
            'native/faults.cc',
            'native/locks.cc',
            'native/mapping.cc',
            'native/pages.cc',
            'native/sockets.cc',
            'native/status.cc',
            'native/timer.cc',
            'native/watch.cc',
          ],
          'defines': [
            # Every supported Node.js has it; and its finalizers may use JavaScript objects.
            'NAPI_VERSION=8',
            'NODE_ADDON_API_CPP_EXCEPTIONS',
            'NODE_ADDON_API_DISABLE_DEPRECATED',
            # A worker that is terminated during a call accepts no exceptions any more: that must not end the process.
            'NODE_API_SWALLOW_UNTHROWABLE_EXCEPTIONS',
            '_FILE_OFFSET_BITS=64',
          ],
          # A system folder: no warnings about node-addon-api.
          'cflags_cc': [
            '-std=c++17',
            '-fexceptions',
            '-fvisibility=hidden',
            '-Wall',
            '-Wextra',
            '-isystem', '<!(node -p "require(\'path\').dirname(require.resolve(\'node-addon-api\'))")',
          ],
          # The handler of SIGBUS (native/faults.cc) must stay when the worker that loaded the addon ends.
          'ldflags': ['-Wl,-z,nodelete'],
          'cflags_cc!': ['-fno-exceptions', '-std=gnu++17', '-std=gnu++20', '-Wno-unused-parameter'],
          'cflags!': ['-fno-exceptions', '-Wno-unused-parameter'],
        }, {
          # Regions need Linux. Elsewhere there is nothing to build, and the installation must not fail.
          'type': 'none',
        }],
      ],
    },
  ],
}
